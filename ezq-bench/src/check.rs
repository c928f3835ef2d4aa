//! The check that makes a figure count.

use crate::error::Result;

/// Fails a run whose count is wrong, because its time means nothing.
pub(crate) fn check(what: &str, seen: u64, wanted: usize) -> Result<()> {
    if seen == wanted as u64 {
        return Ok(());
    }
    Err(format!("{what} is {seen} and should be {wanted}").into())
}
