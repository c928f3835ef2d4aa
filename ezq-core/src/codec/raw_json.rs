//! Raw JSON: the body is the payload and nothing else; the attributes are headers.

use chrono::DateTime;

use crate::codec::wire::{Origin, decode, flat_id, keep_beside, plain_type};
use crate::codec::{Body, Codec, CodecError};
use crate::event::attributes::check_type;
use crate::event::envelope::{AttributeValue, Data, Envelope};
use crate::message::headers::{CE_ID, CE_PREFIX, CE_TYPE, DATA, Headers};

/// A codec whose bodies are the payload and nothing else, for queues that other programs write to or
/// read from.
///
/// The attributes of the event are headers, as in the binary mode of CloudEvents' HTTP binding:
/// `ce-id`, `ce-type`, `ce-source`, `ce-time`, `ce-subject` and so on, including extensions. Nothing is
/// lost.
///
/// A message that another program stored needs the header `ce-type`, unless the codec was made
/// [for one type](Self::of). Without `ce-id`, the event's id is `queue:message`.
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::codec::RawJson;
/// # use ezq_core::memory::MemoryEngine;
/// // Whatever a device stores in the queue `sensors` is a `sensor.reading`.
/// let app = App::builder()
///     .codec(RawJson::of("readings", "sensor.reading"))
///     .queue_codec("sensors", "readings")
///     .build(MemoryEngine::new())?;
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RawJson {
    name: String,
    event_type: Option<String>,
}

impl RawJson {
    pub(crate) fn new() -> Self {
        Self {
            name: "raw".into(),
            event_type: None,
        }
    }

    /// A codec of this name that reads messages without `ce-type` as events of this type.
    pub fn of(name: impl Into<String>, event_type: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            event_type: Some(event_type.into()),
        }
    }
}

impl Codec for RawJson {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), CodecError> {
        match &self.event_type {
            Some(name) => Ok(check_type(name)?),
            None => Ok(()),
        }
    }

    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<Body<'static>, CodecError> {
        if event.data_base64().is_some() {
            return Err("binary data has no form as raw JSON".into());
        }

        let mut set = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                headers.insert(format!("{CE_PREFIX}{name}"), value);
            }
        };
        set("source", Some(event.source()));
        set(
            "time",
            event.time().map(|time| time.to_rfc3339()).as_deref(),
        );
        set("subject", event.subject());
        set("datacontenttype", event.datacontenttype());
        set("dataschema", event.dataschema());
        for (name, value) in event.extensions() {
            headers.insert(format!("{CE_PREFIX}{name}"), value.to_json());
        }

        keep_beside(event, headers);
        let data = event.data().unwrap_or("null");
        Ok(Body::json(data.to_owned()))
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        let body = body.as_json()?;
        let Origin {
            queue,
            message_id,
            enqueued_at,
            headers,
        } = origin;
        let Some(event_type) = headers.text(CE_TYPE).or(self.event_type.as_deref()) else {
            if plain_type(body).is_some() {
                return Ok(decode(body, origin)?);
            }
            return Err(format!("the event type is missing: set the header `{CE_TYPE}`").into());
        };

        let id = headers
            .text(CE_ID)
            .map_or_else(|| flat_id(queue, message_id), str::to_owned);
        let mut event = Envelope::builder(event_type, format!("/queues/{queue}"))
            .id(id)
            .time(enqueued_at.fixed_offset())
            .json(body)?;

        for (name, value) in headers.as_object() {
            let Some(name) = name.strip_prefix(CE_PREFIX) else {
                continue;
            };
            let text = value.as_str().unwrap_or_default().to_owned();
            match name {
                "id" | "type" | "specversion" => {}
                "source" => event.0.source = text.into(),
                "time" => event = event.time(DateTime::parse_from_rfc3339(&text)?),
                "subject" => event = event.subject(text),
                "datacontenttype" => event = event.datacontenttype(text),
                "dataschema" => event = event.dataschema(text),
                name => {
                    let value = AttributeValue::from_json(value);
                    event = event.extension(name, value.unwrap_or(AttributeValue::Text(text)));
                }
            }
        }

        if headers.text(DATA) == Some("none") && body == "null" {
            event.0.data = Data::None;
        }
        Ok(event.build()?)
    }
}
