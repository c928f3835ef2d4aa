//! The traits of ezq-core's engine contract, implemented for [`PgmqEngine`](crate::PgmqEngine).
//!
//! Only this folder knows both the engine and its transactions: the contract begins transactions,
//! and these use the engine.

mod broadcasts;
mod browse;
mod cancellations;
mod dead_letters;
mod doctor;
mod dropping;
mod engine;
mod looks;
mod migrating;
mod operations;
mod overview;
mod partitioning;
mod pauses;
mod positions;
mod presence;
mod schedules;
mod seat;

pub use dropping::{DropOutcome, DropQueue, DropQueueRequest};
pub use partitioning::{PartitionOutcome, PartitionRequest, Partitions};
