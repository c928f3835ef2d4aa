//! The suite that every engine of ezq passes: the rules of [`Engine`](ezq_core::engine::Engine) as
//! cases that run against any store.
//!
//! Implement [`Harness`] for your engine, then [`run`] the suite and turn the [`Report`] into the
//! test's result. Every case works in a queue of its own, so cases may share one store with
//! anything else. A case that needs what the engine's
//! [`Capabilities`](ezq_core::engine::Capabilities) do not offer is reported as skipped, by name
//! and with the reason.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ezq_conformance::{Harness, Report};
//! use ezq_core::engine::Engine;
//! use ezq_core::memory::MemoryEngine;
//!
//! struct Memory(MemoryEngine);
//!
//! #[async_trait::async_trait]
//! impl Harness for Memory {
//!     async fn engine(&self) -> Arc<dyn Engine> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Report> {
//! let report = ezq_conformance::run(&Memory(MemoryEngine::new())).await;
//! println!("{report}");
//! report.into_result()
//! # }
//! ```
//!
//! A slow machine makes the suite slower and does not make it fail: leases that must hold through a
//! case last a minute, and those that must run out a few hundred milliseconds. On a real clock the
//! suite waits for about ten seconds in all.
//!
//! Sinks and sources of brokers have suites of their own, in [`brokers`].
//!
//! [`matrix`] compares what a suite has seen with a table in a document.
//!
//! [`run_model`] plays long random sequences of operations on the engine and on a small reference, and
//! compares their answers.

#[macro_use]
mod check;
pub mod brokers;
mod case;
mod cases;
mod error;
mod harness;
pub mod matrix;
mod model;
mod report;
mod stage;

pub use case::{Case, Verdict};
pub use cases::cases;
pub use harness::Harness;
pub use model::{ModelConfig, ModelFailure, ModelReport, run_model};
pub use report::{Entry, Report};

/// Runs every case against an engine, one after another, and reports on all of them.
pub async fn run(harness: &dyn Harness) -> Report {
    let mut entries = Vec::new();
    for case in cases() {
        let verdict = case.run(harness).await;
        entries.push(Entry {
            case: case.name(),
            verdict,
        });
    }
    Report::new(entries)
}
