//! The body of a message, as `--json` passes it on.

use serde::Serialize;
use serde_json::value::RawValue;

/// A body as it is stored, which is JSON. It is not read, so no number in it is rounded.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Body<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

impl<'a> Body<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        match serde_json::from_str(text) {
            Ok(json) => Self::Json(json),
            Err(_) => Self::Text(text),
        }
    }

    pub(crate) fn text(&self) -> &'a str {
        match self {
            Self::Json(json) => json.get(),
            Self::Text(text) => text,
        }
    }
}
