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

mod config;
mod operation;
mod play;
mod reference;
mod report;
mod run;
mod shrink;

pub use config::ModelConfig;
pub use report::{ModelFailure, ModelReport};
pub use run::run_model;
