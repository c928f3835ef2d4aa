//! Settling, batch by batch: fenced by the engine and tried again until it works.
//!
//! # What happens to a settlement that fails
//!
//! - While the store fails as a whole, the batches behind wait.
//! - A settlement that fails by itself, such as one whose row another session has locked, is tried
//!   again beside the batches that follow.
//! - A settlement that publishes nothing can only fail for what the store lacks (a right, a table),
//!   not for what it holds. It is tried again until it succeeds, and the consumer is not ready
//!   meanwhile.
//! - A settlement that the store refuses because of its events becomes a dead letter, without the
//!   marks of the handlers that succeeded in this delivery. So a redrive runs them again, and their
//!   events are not lost.

pub(crate) mod batch;
pub(crate) mod outbox;
pub(crate) mod refusal;
pub(crate) mod settlement;
mod settler;

pub(crate) use settler::Settler;
