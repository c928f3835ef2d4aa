//! The deliveries that a consumer holds: buffered, waiting in a lane, or at work.
//!
//! Invariant: a delivery is in one place only, and it stays in the lease table until it is settled,
//! given back or lost.

mod held;
pub(crate) mod lanes;
pub(crate) mod task;

pub(crate) use held::Workload;
