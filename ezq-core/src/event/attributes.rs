//! What CloudEvents demands of the attributes of an event.
//!
//! Attributes are checked whenever an event is made or read. Names that become attributes, such as that
//! of the application, are checked where they are given.
//!
//! Sources: CloudEvents 1.0.2, "Type System"; RFC 3986, "URI Generic Syntax". Letters of any language
//! may stand in a URI unescaped, as RFC 3987 allows.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Datelike, FixedOffset};

use crate::event::envelope::{AttributeValue, Data, Envelope};

/// Why an attribute is refused.
type Refusal = Cow<'static, str>;

/// The members of an event that are no extensions: the attributes of CloudEvents, and the data.
pub(crate) const RESERVED: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
];

/// Checks all of an event's attributes.
pub(crate) fn check(event: &Envelope) -> Result<(), Refusal> {
    check_text("id", &event.id)?;
    check_source(&event.source)?;
    check_type(&event.event_type)?;
    if let Some(subject) = &event.subject {
        check_text("subject", subject)?;
    }

    if let Some(time) = &event.time {
        check_time(time)?;
    }
    if let Some(media_type) = &event.datacontenttype {
        check_text("datacontenttype", media_type)?;
        check_media_type(media_type)?;
    }
    if let Some(schema) = &event.dataschema {
        check_text("dataschema", schema)?;
        check_uri("dataschema", schema)?;
        if scheme(schema).is_none_or(|scheme| scheme.len() + 1 == schema.len()) {
            return Err("the attribute `dataschema` is no absolute URI".into());
        }
    }

    for (name, value) in &event.extensions {
        check_extension_name(name)?;
        match value {
            AttributeValue::Text(text) => check_characters(name, text)?,
            AttributeValue::Boolean(_) | AttributeValue::Integer(_) => {}
        }
    }

    match &event.data {
        Data::Base64(text) if STANDARD.decode(text).is_err() => Err(
            "`data_base64` is not base64: it has the letters of RFC 4648 and its padding".into(),
        ),
        Data::Base64(_) | Data::Json(_) | Data::None => Ok(()),
    }
}

/// Checks a source of events.
pub(crate) fn check_source(text: &str) -> Result<(), Refusal> {
    check_text("source", text)?;
    check_uri("source", text)
}

/// Checks an event type.
pub(crate) fn check_type(text: &str) -> Result<(), Refusal> {
    check_text("type", text)
}

fn check_text(name: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(format!("the attribute `{name}` is empty").into());
    }
    check_characters(name, text)
}

fn check_characters(name: &str, text: &str) -> Result<(), Refusal> {
    // Most texts are plain ASCII, and need no look at each character.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }

    if text.chars().any(char::is_control) {
        return Err(format!("the attribute `{name}` has a control character").into());
    }
    if text.chars().any(is_noncharacter) {
        return Err(format!("the attribute `{name}` has what Unicode says is no character").into());
    }
    Ok(())
}

/// Unicode's noncharacters: the last two code points of each plane, and a range of 32.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

/// Checks a URI, or a reference relative to one.
fn check_uri(name: &str, text: &str) -> Result<(), Refusal> {
    if text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte))
    {
        // A path or a single name, which needs no closer look. Most sources are one.
        return Ok(());
    }

    let is_foreign = |c: char| c.is_whitespace() || "\"<>\\^`{|}".contains(c);
    if let Some(c) = text.chars().find(|c| is_foreign(*c)) {
        let c = c.escape_debug();
        return Err(format!("the attribute `{name}` is no URI: it has `{c}`").into());
    }

    let mut after_percent = text.split('%').skip(1).map(|rest| rest.as_bytes().get(..2));
    if !after_percent.all(|two| two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))) {
        return Err(format!(
            "the attribute `{name}` is no URI: two hexadecimal digits must follow `%`"
        )
        .into());
    }

    // A colon in the first segment ends a scheme.
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    if first.contains(':') && scheme(text).is_none() {
        return Err(
            format!("the attribute `{name}` is no URI: it has no scheme before `:`").into(),
        );
    }
    Ok(())
}

/// The part before the first colon, if it is a scheme.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let starts = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (starts && scheme.bytes().all(is_part)).then_some(scheme)
}

/// Checks that RFC 3339 has a form for the time.
fn check_time(time: &DateTime<FixedOffset>) -> Result<(), Refusal> {
    if !(0..=9999).contains(&time.year()) {
        return Err("the attribute `time` lies outside of the years 0 to 9999".into());
    }
    if time.offset().local_minus_utc() % 60 != 0 {
        return Err("the attribute `time` has an offset with seconds: give it in UTC".into());
    }
    Ok(())
}

fn check_media_type(text: &str) -> Result<(), Refusal> {
    let is_token = |token: &str| {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !token.is_empty() && token.bytes().all(is_part)
    };

    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim().split_once('/');
    let is_parameter = |part: &str| {
        part.trim()
            .split_once('=')
            .is_some_and(|(name, value)| is_token(name) && !value.is_empty())
    };

    let is_named = essence.is_some_and(|(kind, form)| is_token(kind) && is_token(form));
    if is_named && parts.all(is_parameter) {
        return Ok(());
    }
    Err("the attribute `datacontenttype` is no media type, such as `application/json`".into())
}

/// Whether a media type means JSON.
pub(crate) fn is_json(media_type: &str) -> bool {
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence.ends_with("+json") || matches!(&*essence, "application/json" | "text/json")
}

fn check_extension_name(name: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(format!(
            "`{}` is not an attribute name: use a-z and 0-9 only",
            name.escape_debug()
        )
        .into());
    }
    if RESERVED.contains(&name) {
        return Err(format!("`{name}` is an attribute of every event, not an extension").into());
    }
    Ok(())
}
