//! What a benchmark fails with. A person reads it, and no code tells one error from another.

use std::error::Error;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
