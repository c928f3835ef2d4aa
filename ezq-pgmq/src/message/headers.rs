//! Reading the headers of a message as Postgres writes them.

use ezq_core::headers::Headers;
use serde_json::Value;

use crate::message::encoding;

/// Headers as Postgres wrote them. A number that no Rust type holds makes them text under the key
/// of originals, not a failure.
pub(crate) fn read(text: Option<String>) -> Headers {
    let Some(text) = text else {
        return Headers::new();
    };
    // A name that was written with escapes; seldom, so that it is not looked for in all that is read.
    let has_escapes = text.contains(r"\\u{");
    let mut value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if has_escapes {
        encoding::restore(&mut value);
    }
    Headers::from_value(value)
}
