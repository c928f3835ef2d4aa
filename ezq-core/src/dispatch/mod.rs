//! Dispatch: running the handlers of one delivery, and drawing one settlement from it.
//!
//! | step | file |
//! |---|---|
//! | which handlers take an event | `registry`, `unknown` |
//! | run those that are due | `run`, `attempt`, `batcher`, `batch_attempt`, `in_place` |
//! | run a relay on a claim | `together`, `staying_keys` |
//! | commit their transactions | `commit`, `commit_order`, `lost_lease` |
//! | draw the settlement | `conclude`, `store_failure` |
//! | what may run at once, and what is paused | `admission` and its parts, `place`, `permit` |
//! | without a queue | `inline` |

pub(crate) mod admission;
mod attempt;
pub(crate) mod backlogs;
pub(crate) mod batch_attempt;
pub(crate) mod batch_member;
pub(crate) mod batch_runner;
mod batcher;
mod claim_gate;
mod commit;
mod commit_order;
mod conclude;
pub(crate) mod dispatcher;
pub(crate) mod in_place;
pub(crate) mod inline;
mod join;
pub(crate) mod log;
mod lost_lease;
mod open_batches;
mod parked;
pub(crate) mod paused;
pub(crate) mod permit;
mod place;
mod quarantine;
pub(crate) mod registry;
mod run;
mod run_outcome;
mod starts;
mod staying_keys;
mod store_failure;
pub(crate) mod together;
mod unknown;
mod unknown_reasons;
pub(crate) mod work;
