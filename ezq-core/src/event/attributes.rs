//! What CloudEvents demands of the attributes of an event.
//!
//! [`Envelope`](crate::event::Envelope) checks its attributes by these rules whenever one is made
//! or read. Names that become attributes, such as that of the application, are checked where they
//! are given.
//!
//! Sources: CloudEvents 1.0.2, "Type System"; RFC 3986, "URI Generic Syntax". Letters of any
//! language may stand in a URI unescaped, as RFC 3987 allows.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, FixedOffset};

/// Why an attribute is refused.
pub(super) type Refusal = Cow<'static, str>;

/// The members of an event that are not extensions: the attributes of CloudEvents, and the data.
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

/// Checks a source of events.
pub(crate) fn check_source(text: &str) -> Result<(), Refusal> {
    check_text("source", text)?;
    check_uri("source", text)
}

/// Checks an event type.
pub(crate) fn check_type(text: &str) -> Result<(), Refusal> {
    check_text("type", text)
}

pub(super) fn check_text(name: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(format!("the attribute `{name}` is empty").into());
    }
    check_characters(name, text)
}

pub(super) fn check_characters(name: &str, text: &str) -> Result<(), Refusal> {
    // Most texts are plain ASCII, and need no look at each character. Without an early end the compiler
    // checks many bytes at once (benchmark case `dispatch`).
    if text
        .bytes()
        .fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'))
    {
        return Ok(());
    }

    if text.chars().any(char::is_control) {
        return Err(format!("the attribute `{name}` has a control character").into());
    }
    if text.chars().any(is_noncharacter) {
        return Err(format!("the attribute `{name}` has a noncharacter of Unicode").into());
    }
    Ok(())
}

/// Unicode's noncharacters: the last two code points of each plane, and a range of 32.
fn is_noncharacter(c: char) -> bool {
    // The low bits are the same in every plane.
    let code = u32::from(c);
    code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

/// Checks a URI, or a reference relative to one.
pub(super) fn check_uri(name: &str, text: &str) -> Result<(), Refusal> {
    if text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte))
    {
        // A path or a single name, which needs no closer look. Most sources are one.
        return Ok(());
    }

    let mut characters = text.chars();
    if let Some(c) = characters.find(|c| c.is_whitespace() || "\"<>\\^`{|}".contains(*c)) {
        let c = c.escape_debug();
        return Err(format!("the attribute `{name}` is not a URI: it has `{c}`").into());
    }

    let mut after_percent = text.split('%').skip(1).map(|rest| rest.as_bytes().get(..2));
    if !after_percent.all(|two| two.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))) {
        return Err(format!(
            "the attribute `{name}` is not a URI: two hexadecimal digits must follow `%`"
        )
        .into());
    }

    // A colon in the first segment ends a scheme.
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    if first.contains(':') && scheme(text).is_none() {
        return Err(
            format!("the attribute `{name}` is not a URI: it has no scheme before `:`").into(),
        );
    }
    Ok(())
}

/// Whether a URI has a scheme, and something after it.
pub(super) fn is_absolute_uri(uri: &str) -> bool {
    scheme(uri).is_some_and(|scheme| scheme.len() + 1 < uri.len())
}

/// The part before the first colon, if it is a scheme.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let mut bytes = scheme.bytes();
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some(scheme)
}

/// Checks that RFC 3339 has a form for the time.
pub(super) fn check_time(time: &DateTime<FixedOffset>) -> Result<(), Refusal> {
    if !(0..=9999).contains(&time.year()) {
        return Err("the attribute `time` lies outside of the years 0 to 9999".into());
    }
    if time.offset().local_minus_utc() % 60 != 0 {
        return Err("the attribute `time` has an offset with seconds: give it in UTC".into());
    }
    Ok(())
}

pub(super) fn check_media_type(text: &str) -> Result<(), Refusal> {
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim().split_once('/');

    let is_named = essence.is_some_and(|(kind, form)| is_token(kind) && is_token(form));
    if is_named && parts.all(is_parameter) {
        return Ok(());
    }
    Err("the attribute `datacontenttype` is not a media type, such as `application/json`".into())
}

/// Whether a text is a parameter of a media type, such as `charset=utf-8`.
fn is_parameter(text: &str) -> bool {
    text.trim()
        .split_once('=')
        .is_some_and(|(name, value)| is_token(name) && !value.is_empty())
}

/// Whether a text is a token (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let mut bytes = text.bytes();
    !text.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
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

pub(super) fn check_extension_name(name: &str) -> Result<(), Refusal> {
    let mut bytes = name.bytes();
    if name.is_empty() || !bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
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
