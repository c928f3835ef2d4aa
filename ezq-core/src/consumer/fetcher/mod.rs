//! Fetching: one claim at a time.
//!
//! | to see | open |
//! |---|---|
//! | when to claim, and what an answer leads to | `fetch.rs`, `pace.rs`, `wakeups.rs`, `look.rs` |
//! | how many messages a claim asks for | `claim_size.rs`, `window.rs` |
//! | what is sent and not answered | `under_way.rs`, `claim.rs`, `claim_health.rs` |
//! | batches that are claimed inside their handler's transaction | `transactional.rs` |
//! | claims that look past busy handlers | `walk.rs` |
//!
//! Two exceptions to one claim at a time: while the deliveries of a claim are read behind which there is
//! likely more, the next claim is on its way already. And batches that are claimed inside their handler's transaction run two at a
//! time.
//!
//! Fast path: the claim on its way. Benchmark case: `consume`, 61,596 events/s, and 54,481 if a claim
//! waits until the deliveries before it are read.

pub(crate) mod claim;
mod claim_health;
mod claim_size;
pub(crate) mod fetch;
mod look;
mod pace;
mod transactional;
mod under_way;
pub(crate) mod wakeups;
pub(crate) mod walk;
pub(crate) mod window;
