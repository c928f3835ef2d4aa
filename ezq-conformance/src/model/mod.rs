//! Random sequences of operations, played on an engine and on a small reference at once.
//!
//! The [cases](crate::cases) state one rule each; here the rules meet. Operations are drawn from a
//! seed: publishing, leasing, settling with valid and void receipts, renewing, crashing, moving the
//! clock, redriving and more. After each operation the engine's answer must be the reference's. A
//! sequence that fails is shortened as far as possible, and reported with the seed that draws it
//! again.
//!
//! To add an operation, add a variant and its weight in `operation.rs`, its meaning in `reference.rs`,
//! and its calls in `play.rs`.

mod operation;
mod play;
mod reference;
mod shrink;

use std::collections::BTreeMap;
use std::fmt;
use std::num::ParseIntError;
use std::time::SystemTime;

use crate::Harness;
use crate::error::CaseError;
use shrink::{Failing, Sequence};

const SEED: &str = "EZQ_MODEL_SEED";
const STEPS: &str = "EZQ_MODEL_STEPS";

/// The seed and the length of a run of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelConfig {
    /// The seed of the first sequence. The next sequences are drawn from the numbers after it.
    pub seed: u64,
    /// The number of operations to play, in sequences of at most 200. Operations that find nothing to
    /// work on, such as a settlement without a receipt, do not count. Defaults to 10,000.
    pub steps: usize,
}

impl ModelConfig {
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

/// What a run of the model has played.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// Plays sequences on an engine and on the reference, until `config.steps` operations are played.
///
/// [`Harness::advance`] must move the engine's clock without waiting: the model lets hours pass. On
/// tokio's paused clock its default does. The engine must be
/// [`delayed`](ezq_core::engine::Capabilities::delayed) and
/// [`ordered`](ezq_core::engine::Capabilities::ordered) and keep dead letters.
///
/// # Errors
/// If an answer of the engine differs from the reference's, or the engine lacks a capability that the
/// model needs.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use ezq_conformance::{ModelConfig, ModelFailure, run_model};
/// use ezq_core::memory::MemoryEngine;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), ModelFailure> {
/// let config = ModelConfig { seed: 1, steps: 500 };
/// let report = run_model(&Arc::new(MemoryEngine::new()), config).await?;
/// assert!(report.steps >= 500);
/// # Ok(())
/// # }
/// ```
pub async fn run_model(
    harness: &dyn Harness,
    config: ModelConfig,
) -> Result<ModelReport, ModelFailure> {
    let mut report = ModelReport::default();
    let mut seed = config.seed;
    while report.steps < config.steps {
        let sequence = Sequence::draw(seed, config.steps);
        let played = sequence.run(harness, &mut report).await;
        played.map_err(|failing| failure(seed, failing))?;
        // So the seed of a failure repeats its sequence as the first one of a run.
        seed = seed.wrapping_add(1);
    }
    Ok(report)
}

fn failure(seed: u64, failing: Failing) -> ModelFailure {
    let what = match failing.error {
        CaseError::Failed(what) | CaseError::Skipped(what) => what,
    };
    let operations = failing
        .operations
        .iter()
        .map(|operation| format!("{operation:?}"))
        .collect();
    ModelFailure {
        seed,
        what,
        operations,
    }
}
