//! What a run of the model comes to: how much it played, or how to see the failure again.

use std::collections::BTreeMap;
use std::fmt;

use super::config::SEED;

/// What a run of the model has played.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelReport {
    /// The number of operations.
    pub steps: usize,
    /// How often each thing happened, such as `"extended with a void receipt"`.
    pub counts: BTreeMap<&'static str, usize>,
}

impl fmt::Display for ModelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps", self.steps)?;
        self.counts
            .iter()
            .try_for_each(|(what, count)| write!(f, "\n{count:>7} {what}"))
    }
}

/// The engine's answer differs from the reference's, or the model cannot examine the engine.
///
/// Both `Display` and `Debug` print what was seen and the shortest sequence that shows it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelFailure {
    /// The seed with which the failing sequence is the first one.
    pub seed: u64,
    /// What was seen.
    pub what: String,
    /// The operations of the shortest failing sequence that was found.
    pub operations: Vec<String>,
}

impl fmt::Display for ModelFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(
            f,
            "again with {SEED}={}; the shortest sequence found:",
            self.seed
        )?;
        self.operations
            .iter()
            .try_for_each(|operation| writeln!(f, "  {operation}"))
    }
}

impl fmt::Debug for ModelFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl std::error::Error for ModelFailure {}
