//! Texts for people: what others wrote, made harmless, and durations.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// A text that others wrote, on one line and without what a terminal would obey: control characters, and
/// those that turn the direction of writing, are shown as escapes.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    // Most texts hide nothing, and are not copied.
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }

    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The beginning of a text, for a column of a table.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// A duration in its two largest units: `2d 4h`, `3m 12s`, `0s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];

    // From the first unit that is not zero on; of nothing, the seconds.
    let first = parts.iter().position(|(number, _)| *number > 0);
    let shown = parts.iter().skip(first.unwrap_or(parts.len() - 1)).take(2);
    let shown: Vec<String> = shown
        .filter(|(number, unit)| *number > 0 || seconds == 0 && *unit == "s")
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    shown.join(" ")
}

/// A time, to the second.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

pub(crate) fn time_if_any(found: Option<DateTime<Utc>>) -> String {
    found.map_or_else(|| "-".to_owned(), time)
}

/// What is said of a list that was cut.
pub(crate) const MORE: &str = "there are more: `--limit` sets how many are listed";

/// A number and its noun, in the plural where that is right.
pub(crate) fn counted<N: From<u8> + PartialEq + Display>(number: N, noun: &str) -> String {
    match number == N::from(1) {
        true => format!("1 {noun}"),
        false => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            visible("a\u{1b}[2Jb\nc\u{202e}"),
            "a\\u{1b}[2Jb\\nc\\u{202e}"
        );
        assert_eq!(visible("ä <b> % '"), "ä <b> % '");
    }

    #[test]
    fn a_duration_has_its_two_largest_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m 12s"),
            (3_605, "1h"),
            (187_200, "2d 4h"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(shortened(&"ä".repeat(60)), "ä".repeat(60));
        assert_eq!(shortened(&"ä".repeat(61)), format!("{}…", "ä".repeat(60)));
    }
}
