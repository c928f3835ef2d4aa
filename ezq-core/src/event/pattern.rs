//! Patterns of event types, for subscriptions, routes and handlers.
//!
//! The dots in a type name separate its segments. In a pattern, `*` matches any one segment, and `#` any
//! number of segments, including none. Every other segment matches itself. The engine on PGMQ matches
//! in SQL, by the same rule.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The longest pattern, in bytes.
pub const PATTERN_LIMIT: usize = 255;

/// A pattern of event types: one type by its name, or several by `*` (one segment) and `#` (any number
/// of segments, including none).
///
/// ```
/// use ezq_core::event::Pattern;
///
/// let orders = Pattern::new("order.#")?;
/// assert!(orders.matches("order") && orders.matches("order.line.added"));
/// assert!(!orders.matches("orders.created"));
/// assert!(Pattern::new("order.*")?.matches("order.created"));
/// assert!(Pattern::new("order*").is_err());
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPattern`] when it is empty, longer than [`PATTERN_LIMIT`], contains a control
    /// character, or has a `*` or `#` that is only part of a segment.
    pub fn new(pattern: &str) -> Result<Self> {
        let why = if pattern.is_empty() {
            "it is empty"
        } else if pattern.len() > PATTERN_LIMIT {
            "it has more than 255 bytes"
        } else if pattern.chars().any(char::is_control) {
            "it holds a control character"
        } else if pattern.split('.').any(is_mixed) {
            "`*` and `#` stand for whole segments between dots, as in `order.*`"
        } else {
            return Ok(Self(pattern.into()));
        };

        let text = format!(
            "`{}` is not a pattern of event types: {why}",
            pattern.escape_debug()
        );
        Err(Error::new(ErrorKind::InvalidPattern, text))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches an event type.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        let pattern: Vec<&str> = self.0.split('.').collect();
        let name: Vec<&str> = event_type.split('.').collect();
        let mut at = 0;
        let mut seen = 0;
        // The place of the last `#`, and up to where it matches the name so far. Only the last `#`
        // needs to be tried again with one segment more, so many of them cost no more than one.
        let mut retreat = None;

        loop {
            match (pattern.get(at), name.get(seen)) {
                (Some(&"#"), _) => {
                    retreat = Some((at, seen));
                    at += 1;
                    continue;
                }
                (Some(segment), Some(given)) if *segment == "*" || segment == given => {
                    at += 1;
                    seen += 1;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }

            let Some((hash, from)) = retreat.filter(|(_, from)| *from < name.len()) else {
                return false;
            };
            retreat = Some((hash, from + 1));
            at = hash + 1;
            seen = from + 1;
        }
    }
}

/// Whether a segment has a wildcard that is only part of it.
fn is_mixed(segment: &str) -> bool {
    segment.len() > 1 && segment.contains(['*', '#'])
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Pattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for Pattern {
    type Error = Error;

    fn try_from(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl TryFrom<&Pattern> for Pattern {
    type Error = Error;

    fn try_from(pattern: &Pattern) -> Result<Self> {
        Ok(pattern.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_hashes_stand_for_whole_segments() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("a.b", &["a.b"], &["a", "a.b.c", "a.c", "A.b"]),
            ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.b"]),
            ("*.b", &["a.b", ".b"], &["b", "a.a.b"]),
            ("a.#", &["a", "a.b", "a.b.c"], &["ab", "b.a"]),
            ("#.c", &["c", "a.c", "a.b.c", "c.c"], &["a.b", "c.d"]),
            ("a.#.c", &["a.c", "a.b.c", "a.c.c"], &["a", "a.c.d"]),
            (
                "#.b.#.d.#",
                &["b.d", "a.b.c.d.e", "b.b.d.d"],
                &["d.b", "b", "a.c.d"],
            ),
            ("#", &["a", "a.b", ""], &[]),
        ];
        for (pattern, hits, misses) in cases {
            let pattern = Pattern::new(pattern).unwrap();
            for hit in hits {
                assert!(pattern.matches(hit), "{pattern} should match {hit}");
            }
            for miss in misses {
                assert!(!pattern.matches(miss), "{pattern} should not match {miss}");
            }
        }
    }

    #[test]
    fn refuses_what_could_only_be_a_mistake() {
        let long = "a".repeat(PATTERN_LIMIT + 1);
        for bad in ["", "a*", "a.#b", "**", "a\n", &*long] {
            let error = Pattern::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPattern, "{bad:?}");
        }
    }

    #[test]
    fn many_hashes_are_decided_in_no_time() {
        let pattern = Pattern::new(&["#.a"; 60].join(".")).unwrap();
        assert!(!pattern.matches(&["a"; 59].join(".")));
        assert!(pattern.matches(&["a"; 120].join(".")));
    }
}
