//! The check for a tokio runtime, without which tokio itself would panic.

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};

/// Checks that the caller is inside a tokio runtime.
///
/// # Errors
/// [`ErrorKind::Configuration`] if it is not.
pub fn check_runtime() -> Result<()> {
    Handle::try_current().map(drop).map_err(|error| {
        let text = "ezq runs on tokio, and this is outside of a tokio runtime: put \
                    `#[tokio::main]` on `main`, or await it inside `Runtime::block_on`";
        Error::new(ErrorKind::Configuration, text).with_source(error)
    })
}
