//! Payloads as a page may show them: redacted by the owner, hidden until asked for, never parsed into
//! numbers that lose digits.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ezq::QueueName;
use serde::de::IgnoredAny;

/// What a page shows of a payload; the rest is one click away.
const SHOWN: usize = 64 * 1024;

/// The data of an event, before a page shows it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Payload<'a> {
    /// The queue that holds the event.
    pub queue: &'a QueueName,
    /// The type of the event, if it can be read.
    pub event_type: Option<&'a str>,
    /// Its data as JSON text. If the event cannot be read it is the stored body, which may be anything.
    pub data: &'a str,
}

type Redact = dyn for<'a> Fn(&Payload<'a>) -> Cow<'a, str> + Send + Sync;
type Hide = dyn Fn(&Payload<'_>) -> bool + Send + Sync;

/// How payloads are shown.
#[derive(Clone, Default)]
pub(crate) struct Payloads {
    pub(crate) redact: Option<Arc<Redact>>,
    pub(crate) hide: Option<Arc<Hide>>,
}

/// A payload, ready for a page.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) text: String,
    pub(crate) bytes: usize,
    /// Whether there is more than the text.
    pub(crate) is_cut: bool,
    /// Whether it is shown only to those who ask.
    pub(crate) is_hidden: bool,
}

impl Payloads {
    /// A payload without what the owner takes out of it.
    pub(crate) fn redacted<'a>(&self, payload: &Payload<'a>) -> Cow<'a, str> {
        match &self.redact {
            Some(redact) => redact(payload),
            None => Cow::Borrowed(payload.data),
        }
    }

    /// Whether the owner says that a payload is shown only to those who ask.
    pub(crate) fn is_hidden(&self, payload: &Payload<'_>) -> bool {
        self.hide.as_ref().is_some_and(|hide| hide(payload))
    }

    /// A payload for a page.
    pub(crate) fn shown(&self, payload: &Payload<'_>, is_asked_for: bool) -> Shown {
        let redacted = self.redacted(payload);
        let bytes = redacted.len();
        if self.is_hidden(payload) && !is_asked_for {
            return Shown {
                text: String::new(),
                bytes,
                is_cut: false,
                is_hidden: true,
            };
        }

        let (text, is_cut) = indented(&redacted);
        Shown {
            text,
            bytes,
            is_cut,
            is_hidden: false,
        }
    }
}

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payloads").finish_non_exhaustive()
    }
}

/// JSON text over several lines, as much as a page shows, and whether there is more. Only spaces are added,
/// so every number keeps its digits. What is no JSON stays as it is.
pub(crate) fn indented(json: &str) -> (String, bool) {
    if serde_json::from_str::<IgnoredAny>(json).is_err() {
        return cut(json);
    }

    let mut text = String::with_capacity(json.len().min(SHOWN));
    let mut depth = 0_usize;
    let mut is_in_string = false;
    let mut is_escaped = false;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        // Spaces may be many times what they stand between, so this stops before the end.
        if text.len() > SHOWN {
            break;
        }
        if is_in_string {
            text.push(c);
            is_in_string = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        match c {
            _ if is_space(c) => {}
            '"' => {
                text.push(c);
                is_in_string = true;
            }
            '{' | '[' => {
                text.push(c);
                // An empty object or list stays on its line.
                while chars.next_if(|next| is_space(*next)).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => text.push(c),
        }
    }

    cut(&text)
}

/// The beginning of a text, as much as a page shows, and whether there is more.
fn cut(text: &str) -> (String, bool) {
    // The nearest place that is between two characters.
    let mut ends = (0..=SHOWN.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    let shown = text.get(..end.unwrap_or(0)).unwrap_or_default();
    (shown.to_owned(), shown.len() < text.len())
}

/// What JSON has between its parts. A text may hold others, which are a part of it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    // Deeper nesting than this fits no screen.
    text.extend(std::iter::repeat_n("  ", depth.min(40)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indenting_keeps_every_digit_and_every_string() {
        let json =
            r#"{"id":9007199254740993123,"x":1.10e2,"s":"a, {b}: \"c\\","e":{ },"l":[1,[]]}"#;
        let expected = r#"{
  "id": 9007199254740993123,
  "x": 1.10e2,
  "s": "a, {b}: \"c\\",
  "e": {},
  "l": [
    1,
    []
  ]
}"#;
        assert_eq!(indented(json), (expected.to_owned(), false));
        assert_eq!(indented("no {json"), ("no {json".to_owned(), false));

        // Characters that JSON allows in texts, though they control terminals.
        let controls = "\"a\u{7f}b\u{85}c\u{9f}\"";
        assert_eq!(indented(controls), (controls.to_owned(), false));
        let (again, _) = indented(expected);
        assert_eq!(again, expected);
    }

    #[test]
    fn a_payload_is_redacted_before_anything_is_shown() {
        let queue = QueueName::default();
        let payload = Payload {
            queue: &queue,
            event_type: Some("card.charged"),
            data: r#"{"card":"4111"}"#,
        };
        let mut payloads = Payloads::default();
        assert!(payloads.shown(&payload, false).text.contains("4111"));

        payloads.redact = Some(Arc::new(|payload| {
            Cow::Owned(payload.data.replace("4111", "****"))
        }));
        payloads.hide = Some(Arc::new(|_| true));
        assert_eq!(payloads.shown(&payload, false).text, "");
        assert!(payloads.shown(&payload, true).text.contains("****"));
    }

    #[test]
    fn a_nested_payload_does_not_multiply() {
        let open = "[".repeat(100);
        let json = format!("{open}{}0{}", "0,".repeat(500_000), "]".repeat(100));
        let (text, is_cut) = indented(&json);
        assert!(is_cut && text.len() <= SHOWN && text.capacity() <= 2 * SHOWN);

        let (text, is_cut) = indented(&"ä".repeat(SHOWN));
        assert!(is_cut && text.len() <= SHOWN);
    }

    #[test]
    fn of_a_large_payload_a_page_shows_the_begin() {
        let queue = QueueName::default();
        let data = format!("\"{}\"", "ä".repeat(1024 * 1024 / 2));
        let payload = Payload {
            queue: &queue,
            event_type: None,
            data: &data,
        };
        let shown = Payloads::default().shown(&payload, false);
        assert!(shown.is_cut && shown.text.len() <= SHOWN);
        assert_eq!(shown.bytes, data.len());
    }
}
