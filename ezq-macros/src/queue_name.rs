//! Reads queue names, by the rules of the library's `QueueName`.

use crate::attributes::Entry;
use syn::{Error, LitStr, Result};

/// The longest name that PGMQ takes.
const MAX_LENGTH: usize = 47;

pub(crate) fn parse(entry: &Entry) -> Result<LitStr> {
    let literal: LitStr = entry.parse()?;
    let name = literal.value();
    let fits = (1..=MAX_LENGTH).contains(&name.len())
        && name.bytes().all(is_allowed)
        && !name.contains("--");
    if fits {
        return Ok(literal);
    }

    let message = format!(
        "\"{}\" is not a queue name: write 1 to {MAX_LENGTH} letters, digits or `_ - . : / @`, without \
         `--`, such as \"orders\"",
        name.escape_debug()
    );
    Err(Error::new(literal.span(), message))
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.:/@".contains(&byte)
}
