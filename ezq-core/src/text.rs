//! Texts of errors and panics in the form that messages keep, durations as people write them, and words
//! that are misspelt.

use std::time::Duration;

/// How many bytes of an error's text a message keeps.
pub const ERROR_TEXT_LIMIT: usize = 1000;

/// An error's text as a message keeps it: cut at [`ERROR_TEXT_LIMIT`], and without NUL characters,
/// which `jsonb` cannot hold.
pub(crate) fn bounded(text: &str) -> String {
    // Cut before as well as after: a replacement takes more bytes than a NUL, and a text of many
    // megabytes must not be copied whole.
    let kept = cut(text).replace('\0', "\u{fffd}");
    cut(&kept).to_owned()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_TEXT_LIMIT);
    // Back to the start of a character that the limit would cut in two.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The message of a panic, as `panic!` gives it; anything else has none.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The word that was probably meant: the nearest one, if at most a third of its letters differ.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let nearest = candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .min_by_key(|(edits, _)| *edits);
    nearest
        .filter(|(edits, candidate)| *edits <= candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed or changed to turn one word into the other: the
/// Levenshtein distance, computed row by row.
pub(crate) fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i.saturating_add(1);
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal.saturating_add(usize::from(a != b));
            diagonal = row[j.saturating_add(1)];
            let moved = row[j].min(diagonal).saturating_add(1);
            row[j.saturating_add(1)] = changed.min(moved);
        }
    }
    row[other.len()]
}

/// Parses a whole number and a unit: `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        // No unit gives zero, so zero marks an unknown one.
        _ => 0,
    };

    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale));
    match millis {
        Some(millis) if scale > 0 => Ok(Duration::from_millis(millis)),
        _ => Err("use a whole number and a unit, as in `500ms`, `30s`, `5m` or `1h`".to_owned()),
    }
}
