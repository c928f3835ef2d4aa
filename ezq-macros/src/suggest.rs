//! Finds the word that a misspelt one was meant to be.

/// The candidate nearest to `word`, if it is near enough to have been meant. That is one that is a
/// few slips away, or of which one contains the other (`attempts`, `max_attempts`).
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // More than one slip in three letters makes another word.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit || is_part_of(word, candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether one contains the other. Words of three letters or less are in too many others to count.
fn is_part_of(word: &str, candidate: &str) -> bool {
    (word.len() > 3 && candidate.contains(word))
        || (candidate.len() > 3 && word.contains(candidate))
}

/// The number of edits between two words. Two neighbours swapped count as one edit (the distance of
/// optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.to_lowercase().chars().collect();
    let to: Vec<char> = to.to_lowercase().chars().collect();

    // `rows[i][j]` is the distance between the first `i` letters of one and the first `j` of the other.
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }

    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let best_edit = substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
            rows[i][j] = if swapped {
                best_edit.min(rows[i - 2][j - 2] + 1)
            } else {
                best_edit
            };
        }
    }

    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 4] = ["name", "order", "timeout", "retry"];

    #[test]
    fn finds_the_word_behind_a_slip() {
        assert_eq!(nearest("timout", KEYS), Some("timeout"));
        assert_eq!(nearest("tiemout", KEYS), Some("timeout"));
        assert_eq!(nearest("Order", KEYS), Some("order"));
        assert_eq!(nearest("retrys", KEYS), Some("retry"));
    }

    #[test]
    fn finds_the_word_within_a_longer_one() {
        assert_eq!(nearest("timeout_secs", KEYS), Some("timeout"));
        assert_eq!(
            nearest("attempts", ["max_attempts", "max"]),
            Some("max_attempts")
        );
        assert_eq!(nearest("max_age", ["max_attempts", "max"]), None);
    }

    #[test]
    fn stays_silent_when_nothing_is_near() {
        assert_eq!(nearest("parallel", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
    }
}
