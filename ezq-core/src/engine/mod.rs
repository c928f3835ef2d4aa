//! The contract between ezq and a store of messages, and nothing else.
//!
//! The parts of ezq that publish and consume know a store only by this contract, and an engine
//! knows no handlers. No engine is in this folder: the one in memory is in
//! [`memory`](crate::memory), the one on PGMQ in the crate `ezq-pgmq`.
//!
//! # Writing an engine
//!
//! 1. Implement the required methods of [`Engine`]: [`capabilities`](Engine::capabilities),
//!    [`ensure_queue`](Engine::ensure_queue), [`publish`](Engine::publish),
//!    [`lease`](Engine::lease), [`settle`](Engine::settle), [`extend`](Engine::extend),
//!    [`purge`](Engine::purge) and [`stats`](Engine::stats). The others have defaults that refuse
//!    or do nothing. The example `custom_engine` is such an engine in less than 200 lines.
//! 2. Keep the four rules:
//!    - **Settlements are fenced.** A [`Receipt`] settles its own delivery only. Once the message
//!      was delivered again, or is gone, the answer is [`SettleOutcome::LeaseLost`] and nothing
//!      changes.
//!    - **Outcomes are per message.** A call on several messages answers one outcome for each, in
//!      their order.
//!    - **A lease that runs out makes its message readable again**, with one more delivery counted.
//!    - **One bad message harms no other** in the same call.
//! 3. Run the suite of the crate `ezq-conformance` against it. It states the whole contract as
//!    tests, and skips those for which the engine lacks the [`Capabilities`].
//! 4. Add optional parts as the store allows, each with its capability or its accessor: delays,
//!    dedupe keys, ordering keys, transactions ([`UnitOfWork`]), [`DeadLetters`],
//!    [`ScheduleStore`], [`Broadcasts`], [`Pauses`], [`Cancellations`], [`QueueOverview`],
//!    [`Presence`], [`SharedLooks`], [`Positions`], [`Browse`], [`Operations`], [`Doctor`], [`History`].
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the methods of an engine | `contract.rs` |
//! | what an engine takes and hands out | `delivery.rs` |
//! | what only the engine itself reads of a receipt | `token.rs` |
//! | how a delivery ends | `settle.rs`, `unit_of_work.rs` |
//! | what an engine says it can do | `capabilities.rs` |
//! | stored messages, read as events | `reader.rs` |
//! | the optional parts | `dead_letters.rs`, `schedules.rs`, `broadcasts.rs`, `pauses.rs`, `cancellations.rs`, `overview.rs`, `presence.rs`, `browse.rs`, `doctor.rs`, `failures.rs`, `operations.rs`, `actions.rs`, `audit.rs`, `dedupe.rs`, `keys.rs`, `looks.rs`, `positions.rs`, `history/` |
//!
//! # Receipts and marks
//!
//! A *receipt* identifies one delivery of a message and fences it. It holds the message's id and the
//! engine's own [`Token`]. On PGMQ the token holds `read_ct`, how often the message was returned,
//! and the table's oid; the id is the message's number and the time at which it was stored
//! ([`MessageId::Dated`](crate::message::MessageId)). The number alone is not enough: a fail-over
//! to a lagging standby, and a crash of an unlogged queue, set the sequence back, so a number may
//! come to mean another message. Whatever asks by id (cancel, move, redrive, discard) compares
//! both.
//!
//! A receipt that the engine did not make settles nothing. Where the engine sees it by the form of
//! the id or the token, the settlement fails with [`ErrorKind::InvalidReceipt`](crate::ErrorKind::InvalidReceipt). Otherwise the
//! receipt is void as any other. A lease is never renewed by it.
//!
//! A *mark* is what one handler did with a message: done, retry or dead, its attempts and its
//! newest errors. It is a flat key `ezq-h:<name>` in the headers. The store merges marks into the
//! locked row, one key at a time.
//!
//! The header `ezq-returned` counts the deliveries that ended with a settlement. `read_ct -
//! ezq-returned` is how often the message was delivered and not settled. `max_deliveries` limits
//! that number.
//!
//! # A claim that covers an earlier delivery
//!
//! After a step of the store's clock, or a pause of the process, a claim may return a message that
//! its own consumer still holds. If it is the very next delivery of the message, and no settlement
//! came between, then nobody else had it: the running handler goes on, and the newer receipt
//! settles. Such a receipt *covers* the earlier delivery: a settlement that returns the message
//! counts both as returned.

mod actions;
mod audit;
mod broadcasts;
mod browse;
mod cancellations;
mod capabilities;
mod contract;
mod dead_letters;
mod dedupe;
mod delivery;
mod doctor;
mod failures;
pub(crate) mod history;
mod keys;
mod looks;
pub(crate) mod names;
mod operations;
mod overview;
mod pauses;
mod positions;
mod presence;
pub(crate) mod reader;
mod schedules;
mod settle;
mod token;
mod unit_of_work;

pub use actions::{
    ActOutcome, EventAction, EventRef, Operation, OperationStatus, Preview, Selection, Signature,
};
pub use audit::{AuditAction, AuditEntry, AuditPage, AuditRequest};
pub use broadcasts::{BroadcastMessage, Broadcasts, EventParty, EventRole, QueueSubscription};
pub use browse::{Browse, EventFilter, EventPage, EventState, PageCursor, PageRequest};
pub use cancellations::{Cancel, CancelOrder, Cancellation, Cancellations, QueueCancellations};
pub use capabilities::Capabilities;
pub use contract::{Engine, QueueStats};
pub use dead_letters::{DeadLetter, DeadLetters, Death};
pub use dedupe::{DEDUPE_KEY_LIMIT, Dedupe, Original};
pub use delivery::{
    Delivery, Due, LeaseRequest, Leased, Outgoing, Position, PublishOutcome, Receipt,
};
pub use doctor::{Doctor, DoctorOptions, Finding, Severity};
pub use failures::{Failure, FailureKey, Failures};
pub use history::{CopyState, EventCopy, EventStatus, History};
pub use keys::{BlockedKey, Blocker};
pub use looks::{LookRequest, Looked, SharedLooks};
pub use operations::Operations;
pub use overview::{Count, QueueCounts, QueueOverview, QueueTotals, Sampler};
pub use pauses::{Pause, PauseTarget, Pauses, QueuePauses, TypeSearch};
pub use positions::{Ingested, Positions, SourceBatch, SourceReader, StoredBatch, StoredPosition};
pub use presence::{ConsumerPresence, Presence, SeenConsumer};
pub use schedules::{
    Advance, Fired, Firing, KeptSchedules, Registration, ScheduleRow, ScheduleStore,
};
pub use settle::{ExtendOutcome, Settle, SettleOutcome};
pub use token::Token;
pub use unit_of_work::{Finished, UnitOfWork};
