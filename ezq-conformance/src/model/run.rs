//! Plays sequences until enough operations are played, or one fails.

use super::config::ModelConfig;
use super::report::{ModelFailure, ModelReport};
use super::shrink::{Failing, Sequence};
use crate::Harness;
use crate::error::CaseError;

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
/// let config = ModelConfig::new(1, 500);
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
