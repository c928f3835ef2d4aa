//! What becomes of acknowledged messages, queue by queue, and of the dead rows that they leave.
//!
//! An archive's table is looked up once, when its queue is first ensured or settled, and remembered
//! until a statement finds it changed. Queues that delete messages need no lookup.
//!
//! # The archive
//!
//! A queue that keeps an archive has its acknowledged messages moved to PGMQ's `a_<queue>`, by the
//! statement that would delete them and under the same fence. Control events are not archived.
//!
//! An archive may outlive its queue, and message numbers may begin again:
//!
//! - A queue that ezq creates beside an old archive goes on after the archive's highest number.
//! - Where a number is taken all the same (PGMQ's own function made the queue, or a crash of an
//!   unlogged queue set the sequence back), the later message is archived under its number plus
//!   2^40, or the next such number that is free. History and replay tell the number that it had.
//!
//! A task of the engine deletes what is past its time, a thousand rows in a transaction, under an
//! advisory lock that nobody waits for.
//!
//! # The trail
//!
//! Where a queue has a trail in place of an archive, the same statement writes one line to
//! `ezq.trail` and keeps no body.
//!
//! # Dead rows
//!
//! Each event leaves two dead rows in its queue's table. `vacuum.rs` removes them where the role may, and
//! `horizon.rs` finds who holds them back.

mod by_queue;
mod dead_rows;
pub(crate) mod horizon;
pub(crate) mod removal;
pub(crate) mod sweep;
pub(crate) mod trail;
pub(crate) mod vacuum;

pub(crate) use by_queue::{Retentions, missing};
