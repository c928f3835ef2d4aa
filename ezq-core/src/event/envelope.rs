//! An event with its attributes: a CloudEvents 1.0 event, validated whenever one is made or read.
//!
//! Source: CloudEvents 1.0.2, "Context Attributes" and "JSON Event Format". `data` stays the JSON
//! text that it was, so no number is ever rounded.
//!
//! This file and `definition.rs` import each other: an envelope is decoded into an [`Event`], and an
//! event type may read an older version of itself from an envelope.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, FixedOffset, Utc};
use compact_str::CompactString;
use serde::de::DeserializeOwned;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::{self, is_json};
use crate::event::{Event, finite};

/// The extension attribute that holds the version of an event. If it is absent, the version is 1.
pub const VERSION_ATTRIBUTE: &str = "eventversion";

/// The value of an extension attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number of 32 bits.
    Integer(i32),
    /// Text. URIs, timestamps and base64 are text too.
    Text(String),
}

impl AttributeValue {
    /// The value in a header.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Boolean(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
        }
    }

    /// The value from a header, if an attribute can have it.
    pub(crate) fn from_json(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::Bool(value) => Some(Self::Boolean(*value)),
            serde_json::Value::Number(number) => {
                let number = i32::try_from(number.as_i64()?).ok()?;
                Some(Self::Integer(number))
            }
            serde_json::Value::String(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }
}

/// The data of an event.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    None,
    Json(Box<RawValue>),
    Base64(String),
}

/// An event with its attributes and its data as JSON text: what a message carries.
///
/// ```
/// use ezq_core::event::Envelope;
///
/// let envelope = Envelope::builder("order.created", "shop")
///     .subject("order-7")
///     .json(r#"{"total": 19.90}"#)?
///     .build()?;
/// assert_eq!(envelope.event_type(), "order.created");
/// assert_eq!(envelope.data(), Some(r#"{"total": 19.90}"#));
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Envelope {
    pub(crate) id: String,
    /// Fast path. Up to 24 bytes of each of these two lie in the event itself. As a `String` each takes
    /// 320 instructions more to allocate and free (benchmark case `dispatch`).
    pub(crate) source: CompactString,
    pub(crate) event_type: CompactString,
    pub(crate) time: Option<DateTime<FixedOffset>>,
    pub(crate) subject: Option<String>,
    pub(crate) datacontenttype: Option<String>,
    pub(crate) dataschema: Option<String>,
    pub(crate) extensions: BTreeMap<String, AttributeValue>,
    pub(crate) data: Data,
}

impl Envelope {
    /// Begins an event of a type from a source, with a new id (UUIDv7) and the current time.
    pub fn builder(event_type: impl Into<String>, source: impl Into<String>) -> EnvelopeBuilder {
        EnvelopeBuilder(Self {
            id: uuid::Uuid::now_v7().to_string(),
            source: source.into().into(),
            event_type: event_type.into().into(),
            time: Some(Utc::now().fixed_offset()),
            subject: None,
            datacontenttype: None,
            dataschema: None,
            extensions: BTreeMap::new(),
            data: Data::None,
        })
    }

    /// The event's id: unique within its source, and the same in every delivery.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the event comes from: the name of the application that published it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// When the event happened.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<FixedOffset>> {
        self.time
    }

    /// What the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The media type of the data. If it is absent, the data is JSON.
    #[must_use]
    pub fn datacontenttype(&self) -> Option<&str> {
        self.datacontenttype.as_deref()
    }

    /// The URI of the schema that the data follows.
    #[must_use]
    pub fn dataschema(&self) -> Option<&str> {
        self.dataschema.as_deref()
    }

    /// The extension attributes.
    #[must_use]
    pub fn extensions(&self) -> &BTreeMap<String, AttributeValue> {
        &self.extensions
    }

    /// The data as JSON text, if it is JSON.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        match &self.data {
            Data::Json(raw) => Some(raw.get()),
            Data::None | Data::Base64(_) => None,
        }
    }

    /// The data in base64, if it is binary.
    #[must_use]
    pub fn data_base64(&self) -> Option<&str> {
        match &self.data {
            Data::Base64(text) => Some(text),
            Data::None | Data::Json(_) => None,
        }
    }

    /// The version of the payload's shape.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the version attribute is not a whole number from 1 on.
    pub fn version(&self) -> Result<u32> {
        let number = match self.extensions.get(VERSION_ATTRIBUTE) {
            None => return Ok(1),
            Some(AttributeValue::Integer(n)) => u32::try_from(*n).ok(),
            Some(AttributeValue::Text(text)) => text.parse().ok(),
            Some(AttributeValue::Boolean(_)) => None,
        };

        number.filter(|n| *n > 0).ok_or_else(|| {
            Error::new(
                ErrorKind::Decode,
                format!("the attribute `{VERSION_ATTRIBUTE}` is not a whole number from 1 on"),
            )
        })
    }

    /// Reads the data as an event type, whatever type name the envelope has. Data of an older
    /// version is [converted](Event::upcast).
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the data is not JSON of that shape; [`ErrorKind::NewerVersion`]
    /// when it has a newer version than the type.
    pub fn decode<E: Event>(&self) -> Result<E> {
        let version = self.version()?;
        match version.cmp(&E::VERSION) {
            Ordering::Equal => self.decode_data(E::TYPE),
            Ordering::Less => E::upcast(self, version),
            Ordering::Greater => {
                let name = E::TYPE;
                let known = E::VERSION;
                let text = format!(
                    "`{name}` has version {version}, and the newest that this program knows is \
                     {known}"
                );
                Err(Error::new(ErrorKind::NewerVersion, text))
            }
        }
    }

    pub(crate) fn decode_data<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let text = match &self.data {
            Data::Json(raw) => Cow::Borrowed(raw.get()),
            // What a type without fields, or an `Option`, is read from.
            Data::None => Cow::Borrowed("null"),
            Data::Base64(text) => Cow::Owned(self.json_in_base64(name, text)?),
        };
        let refused = |error: serde_json::Error| {
            let message = format!("the data is not a `{name}`");
            Error::new(ErrorKind::Decode, message).with_source(error)
        };

        // Serde writes a unit struct as `null`, and a struct whose fields are all absent as `{}`.
        // Other languages, the flat form, and events without data do not tell the two apart. So a
        // type that refuses one of them gets the other.
        let other = match text.trim() {
            "null" => "{}",
            "{}" => "null",
            _ => return serde_json::from_str(&text).map_err(refused),
        };
        serde_json::from_str(&text)
            .or_else(|error| serde_json::from_str(other).map_err(|_| refused(error)))
    }

    /// The JSON text in binary data, unless the media type says that it is something else.
    fn json_in_base64(&self, name: &str, text: &str) -> Result<String> {
        let is_json = self.datacontenttype.as_deref().is_none_or(is_json);
        let bytes = STANDARD.decode(text).ok().filter(|_| is_json);
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| {
                let text = format!("`{name}` has binary data, which is not JSON");
                Error::new(ErrorKind::Decode, text)
            })
    }

    /// The envelope, if its attributes are valid; otherwise an error of this kind.
    pub(crate) fn validated(self, kind: ErrorKind) -> Result<Self> {
        match check(&self) {
            Ok(()) => Ok(self),
            Err(what) => Err(Error::new(kind, what)),
        }
    }
}

/// Checks all attributes of an event, and that binary data is base64.
fn check(event: &Envelope) -> Result<(), attributes::Refusal> {
    attributes::check_text("id", &event.id)?;
    attributes::check_source(&event.source)?;
    attributes::check_type(&event.event_type)?;
    if let Some(subject) = &event.subject {
        attributes::check_text("subject", subject)?;
    }

    if let Some(time) = &event.time {
        attributes::check_time(time)?;
    }
    if let Some(media_type) = &event.datacontenttype {
        attributes::check_text("datacontenttype", media_type)?;
        attributes::check_media_type(media_type)?;
    }
    if let Some(schema) = &event.dataschema {
        attributes::check_text("dataschema", schema)?;
        attributes::check_uri("dataschema", schema)?;
        if !attributes::is_absolute_uri(schema) {
            return Err("the attribute `dataschema` is not an absolute URI".into());
        }
    }

    for (name, value) in &event.extensions {
        attributes::check_extension_name(name)?;
        match value {
            AttributeValue::Text(text) => attributes::check_characters(name, text)?,
            AttributeValue::Boolean(_) | AttributeValue::Integer(_) => {}
        }
    }

    match &event.data {
        Data::Base64(text) if STANDARD.decode(text).is_err() => {
            Err("`data_base64` is not base64: use the alphabet of RFC 4648, with padding".into())
        }
        Data::Base64(_) | Data::Json(_) | Data::None => Ok(()),
    }
}

/// Builds an [`Envelope`].
#[derive(Debug, Clone)]
#[must_use]
pub struct EnvelopeBuilder(pub(crate) Envelope);

impl EnvelopeBuilder {
    /// Sets the id. Defaults to a new UUIDv7.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets when the event happened. Defaults to the current time.
    pub fn time(mut self, time: DateTime<FixedOffset>) -> Self {
        self.0.time = Some(time);
        self
    }

    /// Sets what the event is about, within its source.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// Sets the media type of the data.
    pub fn datacontenttype(mut self, media_type: impl Into<String>) -> Self {
        self.0.datacontenttype = Some(media_type.into());
        self
    }

    /// Sets the URI of the schema that the data follows.
    pub fn dataschema(mut self, uri: impl Into<String>) -> Self {
        self.0.dataschema = Some(uri.into());
        self
    }

    /// Sets an extension attribute.
    pub fn extension(mut self, name: impl Into<String>, value: AttributeValue) -> Self {
        self.0.extensions.insert(name.into(), value);
        self
    }

    /// Sets the data from any value.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] when the value cannot be written as JSON, such as NaN or infinity.
    pub fn data(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        self.0.data = Data::Json(finite::to_json(&self.0.event_type, value)?);
        Ok(self)
    }

    /// Sets the data from JSON text, which stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`] when the text is not JSON.
    pub fn json(mut self, text: &str) -> Result<Self> {
        let raw = RawValue::from_string(text.to_owned()).map_err(|error| {
            Error::new(ErrorKind::Encode, "the data is not JSON").with_source(error)
        })?;
        self.0.data = Data::Json(raw);
        Ok(self)
    }

    /// Sets binary data, given in base64.
    pub fn data_base64(mut self, text: impl Into<String>) -> Self {
        self.0.data = Data::Base64(text.into());
        self
    }

    /// Returns the event.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] when an attribute is empty or malformed.
    pub fn build(self) -> Result<Envelope> {
        self.0.validated(ErrorKind::InvalidEvent)
    }
}

impl Serialize for AttributeValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(value) => to.serialize_bool(*value),
            Self::Integer(value) => to.serialize_i32(*value),
            Self::Text(value) => to.serialize_str(value),
        }
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("source", self.source())?;
        map.serialize_entry("type", self.event_type())?;

        if let Some(time) = &self.time {
            map.serialize_entry(
                "time",
                &time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            )?;
        }
        for (name, value) in [
            ("subject", &self.subject),
            ("datacontenttype", &self.datacontenttype),
            ("dataschema", &self.dataschema),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, value) in &self.extensions {
            map.serialize_entry(name, value)?;
        }

        match &self.data {
            Data::None => {}
            Data::Json(raw) => map.serialize_entry("data", raw)?,
            Data::Base64(text) => map.serialize_entry("data_base64", text)?,
        }
        map.end()
    }
}
