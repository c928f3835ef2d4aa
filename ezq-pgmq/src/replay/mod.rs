//! Replaying archived events: storing copies of them, once each for the replay's name.
//!
//! A replay has a row with its position in the archive. One statement writes copies and position,
//! so an interrupted replay resumes where it was.
//!
//! # How a replay goes on
//!
//! A replay copies one page of an archive in the order of the ids, and notes the last id in its row
//! of `ezq.replays`, in one statement and under that row's lock. So it may be interrupted and run
//! again at any time.
//!
//! What it means is fixed when it begins:
//!
//! - the last id and the time of that moment,
//! - the transactions that were open then, whose rows are left out by `xmin`,
//! - the definition, which every later run under the same name must share.
//!
//! Copies carry the header `ezq-replay`. A replay leaves out copies whose original is in the same
//! archive.

mod definition;
mod failure;
mod list;
mod options;
mod page;
mod progress;
mod row;
mod sql;

pub use definition::Replay;
pub use list::Replays;
pub use progress::ReplayProgress;
