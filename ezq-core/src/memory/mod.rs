//! The engine in memory: the contract of [`engine`](crate::engine) for tests, where nothing
//! survives the process.
//!
//! Begin at [`MemoryEngine::new`], or at [`TestApp`](crate::testing::TestApp), which has an
//! application around it.
//!
//! It is neither a cache nor a broker. Its purpose is that code meets the same rules here as on a
//! database. It has everything but transactions of handlers. Its clock is tokio's, so a paused
//! clock moves leases, delays and retries.
//!
//! # Source files
//!
//! One lock guards all queues, and is never held across an `.await`, so each call is one atomic
//! step.
//!
//! | to see | open |
//! |---|---|
//! | the engine itself: each method takes the lock and asks the store | `engine.rs` |
//! | what touches several queues at once: publishing, settling, waking | `store.rs` |
//! | one queue: order, leases, retries | `queue.rs` |
//! | dead letters: how a message becomes one, and how it comes back | `letters.rs` |
//! | its ordering keys, dedupe keys and archive | `keys.rs`, `dedupe_keys.rs`, `archive.rs` |
//! | the other optional parts of the contract | `schedules.rs`, `broadcasts.rs`, `pauses.rs`, `cancellations.rs`, `overview.rs`, `presence.rs`, `positions.rs`, `browse.rs`, `operations.rs` |

mod archive;
mod broadcasts;
mod browse;
mod cancel_board;
mod cancellations;
mod clock;
mod dedupe_keys;
mod engine;
mod keys;
mod letters;
mod operated;
mod operations;
mod overview;
mod pause_board;
mod pauses;
mod position_board;
mod positions;
mod presence;
mod queue;
mod schedules;
mod store;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use engine::MemoryEngine;
pub use store::Published;
