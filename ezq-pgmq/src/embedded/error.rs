//! The error of a development Postgres that cannot be had.

use ezq_core::{Error, ErrorKind};

pub(super) fn failure(text: &str) -> Error {
    Error::new(ErrorKind::Configuration, text)
}
