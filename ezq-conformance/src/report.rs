//! The result of a run of the suite.

use std::fmt;

use crate::Verdict;

/// A case and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The case's name, which states its rule.
    pub case: &'static str,
    /// Whether the engine keeps the rule.
    pub verdict: Verdict,
}

/// The verdicts on all cases, in the order they ran.
///
/// Both `Display` and `Debug` print a line for each case that did not pass, and the totals. So a test may
/// return [`into_result`](Self::into_result).
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    entries: Vec<Entry>,
}

impl Report {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Every case, in the order they ran.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The cases that failed, each with what was seen.
    pub fn failed(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.verdict {
                Verdict::Failed(what) => Some((entry.case, what.as_str())),
                _ => None,
            })
    }

    /// The cases that could not be run, each with the reason.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.verdict {
                Verdict::Skipped(why) => Some((entry.case, why.as_str())),
                _ => None,
            })
    }

    /// The number of cases that passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.verdict == Verdict::Passed)
            .count()
    }

    /// The report itself as the error if a case failed. Skipped cases are no failure.
    ///
    /// # Errors
    /// If a case failed.
    pub fn into_result(self) -> Result<(), Self> {
        if self.failed().next().is_none() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, what) in self.failed() {
            writeln!(f, "FAILED  {case}: {what}")?;
        }
        // Skipped cases are named as well: a suite that silently skips would look complete.
        for (case, why) in self.skipped() {
            writeln!(f, "skipped {case}: {why}")?;
        }
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed().count(),
            self.skipped().count()
        )
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[(&'static str, Verdict)]) -> Report {
        let entries = verdicts.iter().map(|(case, verdict)| Entry {
            case,
            verdict: verdict.clone(),
        });
        Report::new(entries.collect())
    }

    #[test]
    fn names_every_case_that_failed_or_was_skipped() {
        let report = report(&[
            ("a", Verdict::Passed),
            ("b", Verdict::Failed("saw 2".into())),
            ("c", Verdict::Skipped("no such thing".into())),
            ("d", Verdict::Failed("saw 3".into())),
        ]);
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "FAILED  b: saw 2",
                "FAILED  d: saw 3",
                "skipped c: no such thing",
                "1 passed, 2 failed, 1 skipped",
            ]
        );
        assert_eq!(report.clone().into_result(), Err(report));
    }

    #[test]
    fn what_was_skipped_is_no_failure() {
        let report = report(&[("a", Verdict::Skipped("no such thing".into()))]);
        assert_eq!(report.into_result(), Ok(()));
    }
}
