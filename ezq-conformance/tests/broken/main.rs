//! The suite can fail: for every case there is a broken engine that it catches.

// The lint exempts test functions, and not what stands beside them.
#![allow(clippy::unwrap_used)]

mod broadcasts;
mod brokers;
mod caught;
mod engine;
mod model;
mod operating;
mod operations;
mod schedules;

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::{Broken, Fault};
use ezq_conformance::{Harness, Verdict, cases};
use ezq_core::engine::{Engine, Outgoing};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;

use self::caught::{WITHOUT_REISSUED_IDS, WITHOUT_TRANSACTIONS};

struct BrokenHarness(Arc<Broken>);

#[async_trait::async_trait]
impl Harness for BrokenHarness {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.0) as Arc<dyn Engine>
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let Ok(headers) = serde_json::from_str(headers.unwrap_or("null")) else {
            return false;
        };
        let message = Outgoing::new(queue.clone(), body.to_owned(), Headers::from_value(headers));
        self.0.publish(vec![message]).await.is_ok()
    }
}

fn caught() -> impl Iterator<Item = &'static (Fault, &'static [&'static str])> {
    let operating = operating::CAUGHT.iter().chain(operations::CAUGHT);
    caught::CAUGHT.iter().chain(operating)
}

#[tokio::test(start_paused = true)]
async fn every_fault_is_caught_by_the_cases_that_name_its_rule() {
    let mut missed = Vec::new();
    for (fault, names) in caught() {
        let harness = BrokenHarness(Arc::new(Broken::new(*fault)));
        for case in cases() {
            if !names.contains(&case.name()) {
                continue;
            }
            let verdict = case.run(&harness).await;
            if !matches!(verdict, Verdict::Failed(_)) {
                missed.push((fault, case.name(), verdict));
            }
        }
    }

    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_case_can_fail() {
    let all: BTreeSet<_> = cases().iter().map(|case| case.name()).collect();
    let caught = caught().flat_map(|(_, names)| *names);
    let caught = caught
        .chain(&WITHOUT_TRANSACTIONS)
        .chain(&WITHOUT_REISSUED_IDS);
    let caught: BTreeSet<_> = caught.copied().collect();
    assert_eq!(all, caught);
}
