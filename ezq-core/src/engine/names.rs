//! The id and the type of a stored event, as far as its message names them.

use serde_json::Value;

use crate::message::headers::{CE_ID, CE_TYPE, CODEC, Headers};

/// What a message says of its event. The flat form names no id; what another codec wrote names both in
/// its headers.
pub(crate) struct EventNames {
    pub(crate) id: Option<String>,
    pub(crate) event_type: Option<String>,
}

impl EventNames {
    pub(crate) fn of(body: &str, headers: &Headers) -> Self {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |name: &str| Some(body.get(name).and_then(Value::as_str)?.to_owned());
        let beside = Self {
            id: headers.text(CE_ID).map(str::to_owned),
            event_type: headers.text(CE_TYPE).map(str::to_owned),
        };

        match (body.get("specversion"), body.get("_type")) {
            _ if headers.text(CODEC).is_some() => beside,
            // A CloudEvent without an id is malformed: unlike the flat form, it has no id by its place.
            (Some(_), _) => Self {
                id: Some(text("id").unwrap_or_default()),
                event_type: text("type"),
            },
            (None, Some(_)) => Self {
                id: None,
                event_type: text("_type"),
            },
            (None, None) => beside,
        }
    }
}

/// The name of the type (if it has one) of a message that is the event with an id; `None` if the
/// message is another event. `flat_id` is the id that the event has if it is in the flat form, which
/// names none: its place of first storage.
pub(crate) fn identify(
    body: &str,
    headers: &Headers,
    event_id: &str,
    flat_id: &str,
) -> Option<Option<String>> {
    let EventNames { id, event_type } = EventNames::of(body, headers);
    (id.as_deref().unwrap_or(flat_id) == event_id).then_some(event_type)
}
