//! What handlers fail of: how often, and which failures are alike.
//!
//! Two failures are alike if they are of one handler and their errors differ only in what belongs to one
//! event: numbers, ids and quoted texts.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::engine::history::{CopyState, EventCopy};
use crate::message::message_id::MessageId;
use crate::message::settlement::{HandlerName, HandlerState};

/// Which failures are alike: the handler, and its error without what belongs to one event.
///
/// ```
/// use ezq_core::engine::FailureKey;
///
/// let one = FailureKey::new(Some("mail".into()), "no user 17 at 10.0.0.1:25");
/// let other = FailureKey::new(Some("mail".into()), "no user 4711 at 10.0.0.9:25");
/// assert_eq!(one, other);
/// assert_eq!(one.to_string(), "mail: no user # at #");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FailureKey {
    /// The handler that failed. `None` if the event died without one, such as of a body that cannot be
    /// read.
    pub handler: Option<HandlerName>,
    /// The error; a `#` stands for each number, id and quoted text.
    pub error: String,
}

impl FailureKey {
    /// The key of an error. Errors that differ in digits from 1 to 9 only have one key, and an error that
    /// is one of a key already stays as it is.
    #[must_use]
    pub fn new(handler: Option<HandlerName>, error: &str) -> Self {
        Self {
            handler,
            error: normalized(error),
        }
    }

    /// The longest part of the error that stands in every error of this key. For engines that search for
    /// a text before they compare the key.
    #[must_use]
    pub fn longest_part(&self) -> &str {
        let parts = self.error.split('#');
        parts.max_by_key(|part| part.len()).unwrap_or_default()
    }

    /// Whether an event failed so: it died of this, or a handler that is to run again failed so last.
    #[must_use]
    pub fn is_of(&self, copy: &EventCopy) -> bool {
        match &copy.state {
            CopyState::Dead { reason, .. } => reason
                .as_ref()
                .is_some_and(|reason| self.is(reason.handler.as_ref(), &reason.error)),
            _ => {
                let mut waiting = copy
                    .handlers
                    .iter()
                    .filter(|(_, mark)| mark.state == HandlerState::Retry);
                waiting.any(|(name, mark)| {
                    let newest = mark.errors.last();
                    newest.is_some_and(|newest| self.is(Some(name), &newest.error))
                })
            }
        }
    }

    /// Whether a failure of this handler with this error is meant.
    pub(crate) fn is(&self, handler: Option<&HandlerName>, error: &str) -> bool {
        self.handler.as_ref() == handler && self.error == normalized(error)
    }
}

impl fmt::Display for FailureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(handler) = &self.handler {
            write!(f, "{handler}: ")?;
        }
        f.write_str(&self.error)
    }
}

/// Failures of one handler with one error, or with errors of one [key](FailureKey).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The handler; `None` if the events died without one.
    pub handler: Option<HandlerName>,
    /// The error of the newest of them, as it was stored.
    pub error: String,
    /// Whether the events are dead letters. Otherwise they wait for another attempt.
    pub is_dead: bool,
    /// How many events there are.
    pub count: u64,
    /// When the first of them failed.
    pub first_at: DateTime<Utc>,
    /// When the last of them failed.
    pub last_at: DateTime<Utc>,
    /// The id of the newest of them: among the dead letters if it is one.
    pub example: MessageId,
}

impl Failure {
    /// One failure of an event, at a time.
    #[must_use]
    pub fn new(
        handler: Option<HandlerName>,
        error: impl Into<String>,
        is_dead: bool,
        at: DateTime<Utc>,
        example: MessageId,
    ) -> Self {
        Self {
            handler,
            error: error.into(),
            is_dead,
            count: 1,
            first_at: at,
            last_at: at,
            example,
        }
    }

    /// Sets how many events there are, and when the first of them failed.
    #[must_use]
    pub fn since(mut self, count: u64, first_at: DateTime<Utc>) -> Self {
        self.count = count;
        self.first_at = first_at;
        self
    }
}

/// The failures of a queue, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failures {
    /// The failures, in no order.
    pub found: Vec<Failure>,
    /// Whether everything was looked at.
    pub is_complete: bool,
}

impl Failures {
    /// These failures.
    #[must_use]
    pub fn new(found: Vec<Failure>, is_complete: bool) -> Self {
        Self { found, is_complete }
    }
}

/// An error without what belongs to one event: a `#` stands for each number, id (a UUID, or six and more
/// hexadecimal digits) and quoted text. Numbers that are joined by `.`, `:` or `-`, as in an address or a
/// date, count as one.
pub(crate) fn normalized(error: &str) -> String {
    let mut shape = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(first) = rest.chars().next() {
        let is_after_word = shape.ends_with(char::is_alphanumeric);
        if !is_after_word && let Some(length) = quoted(rest) {
            push_hole(&mut shape);
            rest = &rest[length..];
        } else if first.is_ascii_alphanumeric() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
            let word_length = uuid(rest).or(end).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(word_length);
            push_word(&mut shape, word);
            rest = behind;
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

/// The length of the quoted text at the beginning, if there is one. An apostrophe within a word is no
/// quote.
fn quoted(text: &str) -> Option<usize> {
    let (open, close) = match text.chars().next()? {
        quote @ ('"' | '\'' | '`') => (quote, quote),
        '“' => ('“', '”'),
        '«' => ('«', '»'),
        _ => return None,
    };
    let inside = &text[open.len_utf8()..];
    let ends = inside
        .match_indices(close)
        .map(|(at, _)| at + close.len_utf8());
    let mut ends = ends.filter(|end| !inside[*end..].starts_with(char::is_alphanumeric));
    Some(open.len_utf8() + ends.next()?)
}

/// The length of the UUID at the beginning, if there is one.
fn uuid(text: &str) -> Option<usize> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let candidate = text.get(..36)?;
    let is_uuid = candidate.bytes().enumerate().all(|(at, byte)| {
        if DASHES.contains(&at) {
            byte == b'-'
        } else {
            byte.is_ascii_hexdigit()
        }
    });
    let is_whole = !text[36..].starts_with(|c: char| c.is_ascii_alphanumeric());
    (is_uuid && is_whole).then_some(36)
}

/// Adds a word: a hole for an id, else the word with a hole for each number in it.
fn push_word(shape: &mut String, word: &str) {
    // Only a UUID has dashes.
    let is_plain = !word.contains(|c: char| c.is_ascii_digit() || c == '-');
    if is_plain {
        return shape.push_str(word);
    }

    let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_id = match word.strip_prefix("0x") {
        Some(digits) => is_hex(digits),
        None => word.contains('-') || word.len() >= 6 && is_hex(word),
    };
    if is_id {
        return push_hole(shape);
    }
    for part in word.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let letters = part.trim_start_matches(|c: char| c.is_ascii_digit());
        if letters.len() < part.len() {
            push_hole(shape);
        }
        shape.push_str(letters);
    }
}

/// Adds a hole; one that is joined to the hole before it is part of that.
fn push_hole(shape: &mut String) {
    let before = shape.trim_end_matches(['.', ':', '-']);
    let joint = shape.len() - before.len();
    if joint <= 1 && before.ends_with('#') {
        shape.truncate(before.len());
    } else {
        shape.push('#');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_event_leaves_a_hole() {
        for (error, shape) in [
            ("", ""),
            ("no route to host", "no route to host"),
            ("timed out after 30s", "timed out after #s"),
            ("order 17 of 4", "order # of #"),
            ("v2 of user17b", "v# of user#b"),
            ("10.0.0.1:5432 refused", "# refused"),
            ("at 2026-01-31T12:00:00.123Z", "at #T#Z"),
            ("-5 and 1.5e3", "-# and #e#"),
            ("id 01a21b9a-6195-76a1-80d3-222211727ed0!", "id #!"),
            ("cafecafe-cafe-cafe-cafe-cafecafecafe", "#"),
            ("commit 5a404d5 and 0xFF", "commit # and #"),
            ("0xdeadbeef01", "#"),
            ("no user \"Ada\" or 'Bob' or `x`", "no user # or # or #"),
            ("key (id)=(17) exists", "key (id)=(#) exists"),
            ("can't, won't", "can't, won't"),
            ("a \"lone quote", "a \"lone quote"),
            ("it's 'the user's' own", "it's # own"),
            ("Täglich „x“ für “Grüße” «да»", "Täglich „x“ für # #"),
            ("5 000 000", "# # #"),
            ("#1 of ##", "# of ##"),
        ] {
            assert_eq!(normalized(error), shape, "{error}");
        }
    }

    /// An engine may group by this in the store. A zero is not alike: `0xFF` is an id, and `1xFF` is none.
    #[test]
    fn errors_that_differ_in_digits_above_zero_only_have_one_shape() {
        for error in [
            "order 17: no route to 10.0.0.19:5432",
            "commit 5a404d5, 0xFF and 9xFF",
            "id 01a21b9a-6195-76a1-80d3-222211727ed0!",
            "at 2026-01-31T12:00:00.123Z",
            "'5' v2 of user17b",
        ] {
            let above_zero = |c: char| matches!(c, '1'..='9');
            assert_eq!(
                normalized(&error.replace(above_zero, "1")),
                normalized(error)
            );
        }
        assert_ne!(normalized("1xFF"), normalized("0xFF"));
    }

    #[test]
    fn a_shape_stays_as_it_is_and_its_longest_part_is_in_every_error() {
        let errors = [
            "order 17: no route to 10.0.0.1 ('x' 1.2-3)",
            "#.#",
            "''''1'1'\"",
            "1..2 - 3.-4",
            "“1“2” 3”",
            "0x0x1234567 é1é",
        ];
        for error in errors {
            let shape = normalized(error);
            assert_eq!(normalized(&shape), shape, "{error}");
            let key = FailureKey::new(None, error);
            assert!(error.contains(key.longest_part()), "{error}: {key}");
        }
    }
}
