//! The memory engine passes the suite, on a paused clock and on a real one.

use std::collections::BTreeSet;
use std::sync::Arc;

use ezq_conformance::matrix::{check_column, engine_column};
use ezq_conformance::{Harness, ModelConfig, ModelFailure, Report, run_model};
use ezq_core::engine::{Engine, Outgoing, PublishOutcome};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;

struct Memory(MemoryEngine);

#[async_trait::async_trait]
impl Harness for Memory {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.clone())
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let Ok(headers) = serde_json::from_str(headers.unwrap_or("null")) else {
            return false;
        };
        let message = Outgoing::new(queue.clone(), body.to_owned(), Headers::from_value(headers));
        let outcomes = self.0.publish(vec![message]).await;
        matches!(outcomes.as_deref(), Ok([PublishOutcome::Stored(_)]))
    }

    async fn discard(&self, queue: &QueueName) {
        assert!(self.0.remove_queue(queue));
    }
}

async fn passes(engine: MemoryEngine, skipped: &[&str]) -> Result<(), Report> {
    let report = ezq_conformance::run(&Memory(engine)).await;
    println!("{report}");
    let seen: BTreeSet<_> = report.skipped().map(|(case, _)| case).collect();
    report.clone().into_result()?;
    let document = include_str!("../../docs/growing.md");
    assert_eq!(
        check_column(document, "memory", &engine_column(&report)),
        Ok(())
    );
    let always = WITHOUT_TRANSACTIONS.iter().chain(&WITHOUT_REISSUED_IDS);
    let always = always.chain(&OF_WEAKER_STORES);
    assert_eq!(seen, always.chain(skipped).copied().collect());
    Ok(())
}

const WITHOUT_TRANSACTIONS: [&str; 9] = [
    "a_transaction_archives_what_it_acknowledges",
    "what_a_transaction_claimed_is_archived_with_it",
    "a_transaction_broadcasts_when_it_commits",
    "the_last_handlers_transaction_removes_the_message",
    "an_earlier_handlers_transaction_marks_it_done",
    "a_transaction_that_lost_its_lease_leaves_nothing",
    "an_abandoned_transaction_leaves_the_message_as_it_was",
    "a_transaction_finishes_a_batch_or_nothing_of_it",
    "a_claim_inside_a_transaction_commits_with_it",
];

/// What a store cannot show that issues each id once.
const WITHOUT_REISSUED_IDS: [&str; 4] = [
    "a_receipt_is_void_for_a_message_that_got_its_id",
    "an_id_takes_back_and_moves_no_message_that_got_it",
    "an_id_moves_and_discards_no_dead_letter_that_got_it",
    "a_transaction_leaves_a_message_that_got_its_id",
];

/// What is asked only of a store that cannot fence, or cannot find a message by its id.
const OF_WEAKER_STORES: [&str; 2] = [
    "a_lease_that_ended_by_its_clock_settles_nothing",
    "an_engine_that_moves_nothing_leaves_every_message",
];

#[tokio::test(start_paused = true)]
async fn passes_on_a_paused_clock() -> Result<(), Report> {
    passes(MemoryEngine::new(), &["a_body_over_the_limit_is_refused"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passes_on_a_real_clock_and_many_threads() -> Result<(), Report> {
    let limit = 1 << 20;
    passes(MemoryEngine::with_body_limit(limit), &[]).await
}

#[tokio::test(start_paused = true)]
async fn keeps_to_the_model() -> Result<(), Box<dyn std::error::Error>> {
    let config = ModelConfig::from_env()?;
    println!("{config}");
    let report = run_model(&Memory(MemoryEngine::new()), config).await?;
    println!("{report}");
    assert!(report.steps >= config.steps);
    Ok(())
}

/// A model that never gets anywhere would find nothing.
#[tokio::test(start_paused = true)]
async fn the_model_gets_everywhere() -> Result<(), ModelFailure> {
    let config = ModelConfig::new(1, 10_000);
    let report = run_model(&Memory(MemoryEngine::new()), config).await?;

    let happens = [
        "cancelled",
        "could not cancel",
        "could not move",
        "could not settle",
        "dead discarded at once",
        "dead redriven at once",
        "delivered after a return",
        "delivered after an expiry",
        "delivered first",
        "discarded",
        "discarded at once",
        "extended",
        "extended with a void receipt",
        "found nothing to lease",
        "moved",
        "published",
        "published with a settlement",
        "purged",
        "redriven",
        "retried at once",
        "scheduled made due",
        "settled",
        "settled with a void receipt",
    ];

    let often = report.counts.iter().filter(|(_, count)| **count >= 10);
    let often: Vec<_> = often.map(|(what, _)| *what).collect();
    assert_eq!(often, happens, "{report}");
    Ok(())
}
