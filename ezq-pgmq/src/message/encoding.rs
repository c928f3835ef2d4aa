//! What the database's encoding can hold, and how ezq's own texts are written where it cannot.
//!
//! The driver sends UTF-8. A database with another encoding converts each text, and refuses one
//! with a character that it lacks. Then an error's text or a handler's name would make a retry
//! impossible to store. So in texts of its own ezq writes such characters as visible escapes,
//! `\u{2192}`. Names, which are looked up again, are restored when they are read; other texts are
//! not.

use std::borrow::Cow;

use ezq_core::message::headers::{DEAD, HANDLER_PREFIX, REDRIVEN, REPLAY};
use ezq_core::message::{HandlerName, Progress, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// How an escape begins.
const ESCAPE: &str = "\\u{";

/// The encoding of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    /// No encoding: bytes are kept as they are. A JSON escape beyond ASCII has no character to
    /// become.
    SqlAscii,
    Latin1,
    /// Another encoding, of which only ASCII is relied on.
    Other,
}

impl Encoding {
    /// The encoding that Postgres calls by this name.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "UTF8" => Self::Utf8,
            "SQL_ASCII" => Self::SqlAscii,
            "LATIN1" => Self::Latin1,
            _ => Self::Other,
        }
    }

    /// Whether a text with this character can surely be stored.
    fn holds(self, c: char) -> bool {
        match self {
            Self::Utf8 | Self::SqlAscii => c != '\0',
            Self::Latin1 => c != '\0' && u32::from(c) <= 0xFF,
            Self::Other => c != '\0' && c.is_ascii(),
        }
    }

    /// Whether the database may hold a text at all. What it cannot hold, nothing in it equals.
    pub(crate) fn may_hold(self, text: &str) -> bool {
        !text.contains('\0') && self.lacks(text).is_none()
    }

    /// The first character of a text that surely cannot be stored.
    pub(crate) fn lacks(self, text: &str) -> Option<char> {
        match self {
            Self::Latin1 => text.chars().find(|c| !self.holds(*c)),
            Self::Utf8 | Self::SqlAscii | Self::Other => None,
        }
    }

    /// Whether JSON with an escape of this UTF-16 unit surely cannot be stored.
    pub(crate) fn lacks_escaped(self, unit: u16) -> bool {
        match self {
            Self::Utf8 | Self::Other => false,
            Self::SqlAscii => unit > 0x7F,
            Self::Latin1 => unit > 0xFF,
        }
    }

    /// A text in a form that can be stored.
    pub(crate) fn text(self, text: &str) -> Cow<'_, str> {
        if text.chars().all(|c| self.holds(c)) {
            return Cow::Borrowed(text);
        }

        let mut written = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            match c {
                c if self.holds(c) => written.push(c),
                '\0' if self.holds(char::REPLACEMENT_CHARACTER) => {
                    written.push(char::REPLACEMENT_CHARACTER);
                }
                c => written.extend(c.escape_unicode()),
            }
        }

        Cow::Owned(written)
    }

    /// A name in a form that can be stored, and restored by [`original`].
    pub(crate) fn name(self, name: &str) -> Cow<'_, str> {
        if name.chars().all(|c| self.holds(c)) && !name.contains(ESCAPE) {
            return Cow::Borrowed(name);
        }

        let mut written = String::with_capacity(name.len() + 16);
        for (at, c) in name.char_indices() {
            if self.holds(c) && !name[at..].starts_with(ESCAPE) {
                written.push(c);
            } else {
                written.extend(c.escape_unicode());
            }
        }

        Cow::Owned(written)
    }

    /// Marks as header entries.
    pub(crate) fn marks(self, progress: &Progress) -> Map<String, Value> {
        let mut entries = Map::new();
        for (key, mut mark) in progress.to_headers() {
            self.clean(&mut mark);
            let written = match self.name(&key) {
                Cow::Borrowed(_) => None,
                Cow::Owned(written) => Some(written),
            };
            entries.insert(written.unwrap_or(key), mark);
        }
        entries
    }

    /// A reason, which names a handler.
    pub(crate) fn reason(self, reason: &Reason) -> Value {
        let handler = reason.handler.as_ref();
        let handler = handler.map(|name| HandlerName::from(&*self.name(name.as_str())));
        let error = self.text(&reason.error);
        let written = Reason::new(reason.kind, error, reason.attempts).handler(handler);
        // A reason is plain data, which always serialises.
        serde_json::to_value(written).unwrap_or_default()
    }

    fn clean(self, value: &mut Value) {
        each_string(value, &|text| self.text(text));
    }

    /// Plain data as JSON that can be stored, and is read back by [`from_json`] as it was.
    pub(crate) fn json(self, data: &impl Serialize) -> String {
        // Plain data always serialises.
        let mut value = serde_json::to_value(data).unwrap_or_default();
        each_string(&mut value, &|text| self.name(text));
        value.to_string()
    }
}

/// Data that [`Encoding::json`] wrote. `None` if it is of another shape.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    let mut value = serde_json::from_str(text).ok()?;
    each_string(&mut value, &|text| original(text));
    serde_json::from_value(value).ok()
}

/// Rewrites each text in a value; the names of fields stay.
fn each_string(value: &mut Value, rewrite: &dyn for<'a> Fn(&'a str) -> Cow<'a, str>) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(written) = rewrite(text) {
                *text = written;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_string(item, rewrite)),
        Value::Object(entries) => entries
            .values_mut()
            .for_each(|entry| each_string(entry, rewrite)),
        _ => {}
    }
}

/// A name in its original form.
pub(crate) fn original(written: &str) -> Cow<'_, str> {
    if !written.contains(ESCAPE) {
        return Cow::Borrowed(written);
    }

    let mut name = String::with_capacity(written.len());
    let mut rest = written;
    while let Some((before, after)) = rest.split_once(ESCAPE) {
        name.push_str(before);
        match escaped(after) {
            Some((c, after)) => {
                name.push(c);
                rest = after;
            }
            None => {
                name.push_str(ESCAPE);
                rest = after;
            }
        }
    }

    name.push_str(rest);
    Cow::Owned(name)
}

/// The character of an escape whose beginning was read, and what follows the escape.
fn escaped(text: &str) -> Option<(char, &str)> {
    let (digits, after) = text.split_once('}')?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    Some((char::from_u32(code)?, after))
}

/// Restores ezq's own names in headers that were read.
pub(crate) fn restore(headers: &mut Value) {
    let Value::Object(entries) = headers else {
        return;
    };

    let written: Vec<String> = entries
        .keys()
        .filter(|key| key.starts_with(HANDLER_PREFIX) && key.contains(ESCAPE))
        .cloned()
        .collect();
    for key in written {
        if let Some(mark) = entries.remove(&key) {
            entries.insert(original(&key).into_owned(), mark);
        }
    }

    for (header, path) in [
        (DEAD, "/reason/handler"),
        (REDRIVEN, "/reason/handler"),
        (REPLAY, "/name"),
    ] {
        let name = entries
            .get_mut(header)
            .and_then(|value| value.pointer_mut(path));
        if let Some(Value::String(name)) = name
            && let Cow::Owned(given) = original(name)
        {
            *name = given;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 4] = [
        Encoding::Utf8,
        Encoding::SqlAscii,
        Encoding::Latin1,
        Encoding::Other,
    ];

    #[test]
    fn a_name_is_read_back_as_it_was_given() {
        let names = [
            "a",
            "größe",
            "→",
            "a\0b",
            r"\u{2192}",
            r"\\u{5c}u{",
            r"\u{",
            r"\u{zz}",
            r"\u{d800}",
        ];
        for encoding in ALL {
            for name in names {
                let written = encoding.name(name);
                assert!(
                    written.chars().all(|c| encoding.holds(c)),
                    "{encoding:?}: {name}"
                );
                assert_eq!(original(&written), name, "{encoding:?}");
            }
        }
    }

    #[test]
    fn data_is_read_back_as_it_was_given() {
        let data = serde_json::json!({"by": [r"größe→\u{2192}", "a\0b"], "count": 7});
        for encoding in ALL {
            let written = encoding.json(&data);
            assert!(
                written.chars().all(|c| encoding.holds(c)),
                "{encoding:?}: {written}"
            );
            assert!(
                !written.contains("\\u0000"),
                "jsonb takes no NUL: {written}"
            );
            assert_eq!(from_json(&written), Some(data.clone()), "{encoding:?}");
        }
    }

    #[test]
    fn a_text_is_changed_only_where_it_must_be() {
        let text = r"Zürich → \u{41}";
        assert_eq!(Encoding::Utf8.text(text), text);
        assert_eq!(Encoding::SqlAscii.text(text), text);
        assert_eq!(Encoding::Latin1.text(text), r"Zürich \u{2192} \u{41}");
        assert_eq!(Encoding::Other.text(text), r"Z\u{fc}rich \u{2192} \u{41}");
        assert_eq!(Encoding::Utf8.text("a\0"), "a\u{FFFD}");
        assert_eq!(Encoding::Latin1.text("a\0"), r"a\u{0}");
    }

    #[test]
    fn headers_have_their_names_again() {
        let mark = serde_json::json!({"state": "done"});
        let mut progress = Progress::default();
        progress.insert("→".into(), serde_json::from_value(mark.clone()).unwrap());
        let mut headers = Value::Object(Encoding::Latin1.marks(&progress));
        assert_eq!(headers, serde_json::json!({ r"ezq-h:\u{2192}": mark }));
        headers["x"] = r"\u{41}".into();
        restore(&mut headers);
        assert_eq!(
            headers,
            serde_json::json!({ "ezq-h:→": mark, "x": r"\u{41}" })
        );
    }
}
