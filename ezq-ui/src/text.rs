//! Texts of the pages: numbers, times and names as people read them, and names in addresses.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// How much a name must look like another to be suggested, from 0 to 1.
const ALIKE: f64 = 0.7;

/// A name as a part of an address: every byte that may have a meaning there is encoded.
pub(crate) fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            // Writing to a text cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }

    text
}

/// An address with a query, without the parameters that have no value.
pub(crate) fn address(path: &str, query: &[(&str, &str)]) -> String {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let parts: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();

    match parts.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", parts.join("&")),
    }
}

/// What others wrote, without characters that hide or turn what stands around them.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
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

/// A text with names in backticks, in parts; true for a name.
pub(crate) fn marked(text: &str) -> Vec<(bool, String)> {
    // A lone backtick marks nothing.
    if !text.matches('`').count().is_multiple_of(2) {
        return vec![(false, text.to_owned())];
    }
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(number, part)| (!number.is_multiple_of(2), part.to_owned()));
    parts.filter(|(_, part)| !part.is_empty()).collect()
}

/// The beginning of a text, on one line.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    let text = visible(text).replace(['\n', '\t'], " ");
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A duration in its two largest units: `2d 4h`, `3m 12s`, `0s`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let days = seconds / 86_400;
    let hours = seconds / 3_600 % 24;
    let minutes = seconds / 60 % 60;
    let rest = seconds % 60;

    // From the first unit that is not zero on.
    let shown = match (days, hours, minutes) {
        (0, 0, 0) => return format!("{rest}s"),
        (0, 0, _) => ((minutes, "m"), (rest, "s")),
        (0, _, _) => ((hours, "h"), (minutes, "m")),
        _ => ((days, "d"), (hours, "h")),
    };
    match shown {
        ((first, unit), (0, _)) => format!("{first}{unit}"),
        ((first, unit), (second, smaller)) => format!("{first}{unit} {second}{smaller}"),
    }
}

/// How long ago a time was, or in how long it will be, by a clock that may be some seconds off.
pub(crate) fn relative(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match (now - time).to_std() {
        Ok(past) if past < Duration::from_secs(1) => "now".to_owned(),
        Ok(past) => format!("{} ago", duration(past)),
        Err(_) => format!("in {}", duration((time - now).to_std().unwrap_or_default())),
    }
}

/// A time, to the second.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

pub(crate) fn time_if_any(found: Option<DateTime<Utc>>) -> String {
    found.map_or_else(|| "–".to_owned(), time)
}

/// A number with a comma for every thousand.
pub(crate) fn number(number: u64) -> String {
    ezq::admin::Count::up_to(number, u64::MAX).to_string()
}

/// A number and its noun, in the plural where that is right.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", number(count)),
    }
}

/// A rate: `0`, `0.4/s`, `120/s`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        slow if slow < 0.05 => "0".to_owned(),
        slow if slow < 10.0 => format!("{slow:.1}/s"),
        fast => format!("{fast:.0}/s"),
    }
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known));
    let best = alike
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_an_address_has_no_character_with_a_meaning() {
        assert_eq!(encoded("shop/eu.orders:1@x"), "shop%2Feu.orders%3A1%40x");
        assert_eq!(encoded("<a> & '%' ä"), "%3Ca%3E%20%26%20%27%25%27%20%C3%A4");
        assert_eq!(
            address("/q", &[("type", "a&b"), ("key", "")]),
            "/q?type=a%26b"
        );
        assert_eq!(address("/q", &[("key", "")]), "/q");
    }

    #[test]
    fn durations_and_times_are_short() {
        let cases = [
            (0, "0s"),
            (60, "1m"),
            (192, "3m 12s"),
            (3_605, "1h"),
            (187_200, "2d 4h"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), shown);
        }
        let now = DateTime::UNIX_EPOCH;
        let minute = chrono::TimeDelta::minutes(1);
        assert_eq!(relative(now - minute, now), "1m ago");
        assert_eq!(relative(now + minute, now), "in 1m");
        assert_eq!(relative(now, now), "now");
    }

    #[test]
    fn names_are_marked_by_pairs_of_backticks() {
        let part = |is_name, text: &str| (is_name, text.to_owned());
        let parts = [
            part(false, "the role "),
            part(true, "a<b"),
            part(false, "!"),
        ];
        assert_eq!(marked("the role `a<b`!"), parts);
        assert_eq!(marked("5` of"), [part(false, "5` of")]);
    }

    #[test]
    fn what_hides_is_shown() {
        assert_eq!(visible("a\u{202e}b\u{1b}"), "a\\u{202e}b\\u{1b}");
        assert_eq!(shortened("a\nb", 9), "a b");
        assert_eq!(shortened("äöü", 2), "äö…");
    }

    #[test]
    fn a_mistyped_name_finds_its_like_and_no_far_one() {
        let known = ["orders", "invoices"];
        assert_eq!(nearest("ordres", known), Some("orders"));
        assert_eq!(nearest("payments", known), None);
    }
}
