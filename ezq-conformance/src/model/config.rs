//! Which sequences a run of the model plays, and how it is repeated.

use std::fmt;
use std::num::ParseIntError;
use std::time::SystemTime;

pub(super) const SEED: &str = "EZQ_MODEL_SEED";
const STEPS: &str = "EZQ_MODEL_STEPS";

/// The seed and the length of a run of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The seed of the first sequence. The next sequences are drawn from the numbers after it.
    pub seed: u64,
    /// The number of operations to play, in sequences of at most 200. Operations that find nothing to
    /// work on, such as a settlement without a receipt, do not count. Defaults to 10,000.
    pub steps: usize,
}

impl ModelConfig {
    /// A run of this seed and length.
    #[must_use]
    pub fn new(seed: u64, steps: usize) -> Self {
        Self { seed, steps }
    }

    /// Reads `EZQ_MODEL_SEED` and `EZQ_MODEL_STEPS`. They default to a seed taken from the clock and
    /// 10,000 steps. Print the result before the run: it shows how to repeat the run.
    ///
    /// # Errors
    /// If one of them is set and is not a number.
    pub fn from_env() -> Result<Self, ParseIntError> {
        // Nanoseconds alone: a short seed is easier to type again, and a run needs no more variety.
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seed = number_from_env(SEED)?.unwrap_or_else(|| u64::from(since.subsec_nanos()));
        let steps = number_from_env(STEPS)?.and_then(|steps| usize::try_from(steps).ok());
        Ok(Self {
            seed,
            steps: steps.unwrap_or(10_000),
        })
    }
}

fn number_from_env(name: &str) -> Result<Option<u64>, ParseIntError> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse())
        .transpose()
}

impl fmt::Display for ModelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SEED}={} {STEPS}={}", self.seed, self.steps)
    }
}
