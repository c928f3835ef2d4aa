//! The deliveries that a consumer holds: buffered, waiting in a lane or a relay's batch, or at work.
//!
//! Invariant: a delivery is in one place only, and it stays in the lease table until it is settled,
//! given back or lost.

mod batches;
mod held;
pub(crate) mod lanes;
pub(crate) mod task;
mod together;

pub(crate) use held::Workload;
