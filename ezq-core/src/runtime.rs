//! The check for a tokio runtime, without which tokio itself would panic.

use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::error::{Error, ErrorKind, Result};

/// Checks that the caller is inside a tokio runtime.
///
/// # Errors
/// [`ErrorKind::NoRuntime`] if it is not.
pub fn check_runtime() -> Result<()> {
    Handle::try_current().map(drop).map_err(|error| {
        let text = "ezq runs on tokio, and this is outside of a tokio runtime: put \
                    `#[tokio::main]` on `main`, or await it inside `Runtime::block_on`";
        Error::new(ErrorKind::NoRuntime, text).with_source(error)
    })
}

/// The error for a task that did not come to its end.
pub(crate) fn cut_off(task: &str, error: JoinError) -> Error {
    let (kind, how) = if error.is_panic() {
        (ErrorKind::Panicked, "panicked")
    } else {
        (
            ErrorKind::RuntimeEnded,
            "was cut off: its runtime has ended",
        )
    };
    Error::new(kind, format!("{task} {how}")).with_source(error)
}
