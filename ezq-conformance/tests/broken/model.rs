//! The model can fail: it finds faults of many kinds, and tells each in a few operations.

use std::sync::Arc;

use ezq_conformance::{ModelConfig, run_model};

use crate::BrokenHarness;
use crate::engine::{Broken, Fault};

/// What sequences of well-formed operations show. The rest, such as odd bodies and missing queues,
/// is left to the cases.
const FOUND: &[Fault] = &[
    Fault::ReversesBatches,
    Fault::PublishesToOneQueue,
    Fault::DropsHeaders,
    Fault::DelaysAreEarly,
    Fault::DelaysInWholeSeconds,
    Fault::LeasesNothing,
    Fault::LeasesForEver,
    Fault::SharesMessages,
    Fault::LeasesInAnyOrder,
    Fault::IgnoresMax,
    Fault::IgnoresBefore,
    Fault::LosesCounts,
    Fault::SaysDueNow,
    Fault::AcceptsStaleReceipts,
    Fault::AcceptsUsedReceipts,
    Fault::VoidsExpiredLeases,
    Fault::SettlesAllOrNothing,
    Fault::DeadlocksOnDisorder,
    Fault::AcksNothing,
    Fault::RetriesAtOnce,
    Fault::ForgetsProgress,
    Fault::LosesOutgoing,
    Fault::ReleasesToTheEnd,
    Fault::SaysExtended,
    Fault::CancelsAnything,
    Fault::PurgesNothing,
    Fault::CountsNothing,
    Fault::LosesDeadLetters,
    Fault::ListsFromTheStart,
    Fault::RedrivesNothing,
    Fault::DiscardsNothing,
    Fault::CountsStepsTwice,
];

#[tokio::test(start_paused = true)]
async fn the_model_finds_faults_and_tells_each_in_few_operations() {
    let config = ModelConfig::new(1, 10_000);
    let mut missed = Vec::new();

    for fault in FOUND {
        let harness = BrokenHarness(Arc::new(Broken::new(*fault)));
        match run_model(&harness, config).await {
            Ok(_) => missed.push((fault, "not found".to_owned())),
            Err(failure) => {
                println!("{fault:?}: {failure}");
                if failure.operations.len() > 10 {
                    missed.push((fault, failure.to_string()));
                }
            }
        }
    }

    assert!(missed.is_empty(), "{missed:#?}");
}

/// A failure names a seed that draws the failing sequence first.
#[tokio::test(start_paused = true)]
async fn a_seed_repeats_a_failure() {
    let run = async |seed| {
        let harness = BrokenHarness(Arc::new(Broken::new(Fault::DiscardsNothing)));
        run_model(&harness, ModelConfig::new(seed, 10_000))
            .await
            .unwrap_err()
    };

    let first = run(7).await;
    let again = run(first.seed).await;
    assert_eq!(again.seed, first.seed);
    assert_eq!(again.operations, first.operations);
}
