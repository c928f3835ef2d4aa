//! Reading the headers of a message.

use ezq_core::message::headers::Headers;
use serde_json::Value;

use crate::message::encoding;

/// Parses headers. If they hold a number that no Rust type holds, they become one text under the
/// key for malformed headers; reading them never fails.
pub(crate) fn read(text: Option<String>) -> Headers {
    let Some(text) = text else {
        return Headers::new();
    };
    // An escaped name is rare: only if there is a trace of one are names looked through.
    let has_escapes = text.contains(r"\\u{");
    let mut value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if has_escapes {
        encoding::restore(&mut value);
    }
    Headers::from_value(value)
}
