//! What a benchmark fails with. A person reads it. Only a test tells one error from another.

use std::error::Error;
use std::fmt;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A run that has no rate, because its events came at one time.
#[derive(Debug)]
pub(crate) struct TooFewEvents;

impl fmt::Display for TooFewEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too few events to time: ask for more with `--events`")
    }
}

impl Error for TooFewEvents {}
