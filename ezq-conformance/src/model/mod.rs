//! Sequences of operations that nobody thought of, on an engine and on a small reference at once.
//!
//! The [cases](crate::cases) state one rule each; here the rules meet. Operations are drawn from a
//! seed: publishing, leasing, settling with receipts that hold and that do not, renewing, crashing,
//! moving the clock, redriving and more. After each one the engine must have answered what the
//! reference answers. A sequence that fails is made as short as it can be, and told with the seed
//! that draws it again.
//!
//! To add an operation: a variant and its weight in `operation.rs`, what it means in
//! `reference.rs`, and what it calls in `play.rs`.

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

/// What a run of the model draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelConfig {
    /// Draws the first sequence; the next ones are drawn from the numbers after it.
    pub seed: u64,
    /// How many operations have to be done, in sequences of at most 200. Those that find nothing to
    /// work on, such as settling with empty hands, do not count. Defaults to 10,000.
    pub steps: usize,
}

impl ModelConfig {
    /// `EZQ_MODEL_SEED` and `EZQ_MODEL_STEPS`; where they are not set, a seed of the moment and
    /// 10,000 steps. Print it before the run: it shows how the run is repeated.
    ///
    /// # Errors
    /// When one of them is set and no number.
    pub fn from_env() -> Result<Self, ParseIntError> {
        let number = |name| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse::<u64>())
                .transpose()
        };
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seed = number(SEED)?.unwrap_or_else(|| u64::from(since.subsec_nanos()));
        let steps = number(STEPS)?.and_then(|steps| usize::try_from(steps).ok());
        Ok(Self {
            seed,
            steps: steps.unwrap_or(10_000),
        })
    }
}

impl fmt::Display for ModelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SEED}={} {STEPS}={}", self.seed, self.steps)
    }
}

/// What a run of the model did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelReport {
    /// How many operations were done.
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

/// An engine that did something else than the reference, or that the model cannot examine.
///
/// Both `Display` and `Debug` print what was seen and the shortest sequence that shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ModelFailure {
    /// Draws the failing sequence as the first one.
    pub seed: u64,
    /// What was seen.
    pub what: String,
    /// The shortest sequence found that fails, one operation each.
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

/// Plays sequences on an engine and on the reference until so many steps are done.
///
/// [`Harness::advance`] must move the engine's clock without waiting: the model lets hours pass.
/// On tokio's paused clock its default does. The engine must be
/// [`delayed`](ezq_core::Capabilities::delayed) and [`ordered`](ezq_core::Capabilities::ordered)
/// and keep dead letters.
///
/// # Errors
/// When the engine did something else than the reference, or lacks what the model needs.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use ezq_conformance::{ModelConfig, ModelFailure, run_model};
/// use ezq_core::MemoryEngine;
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
