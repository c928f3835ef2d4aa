//! What operators see and change in a running system.
//!
//! Begin at the method of [`App`](crate::app::App) that returns the type:
//!
//! | method | gives |
//! |---|---|
//! | [`audit`](crate::app::App::audit) | [`Audit`]: who did what, and when |
//! | [`consumers`](crate::app::App::consumers) | [`Consumers`]: who runs where, and who is gone |
//! | [`dead_letters`](crate::app::App::dead_letters) | [`DeadLetterQueue`]: lists, redrives and discards [`DeadLetter`](crate::engine::DeadLetter)s |
//! | [`doctor`](crate::app::App::doctor) | [`DoctorRequest`]: what is wrong with the store, and what mends it |
//! | [`events`](crate::app::App::events) | [`Events`]: a queue's events, page by page and filtered, its errors grouped; discards, redrives, retries, moves and cancels |
//! | [`history`](crate::app::App::history) | [`HistoryRequest`]: every stored copy of one event |
//! | [`health`](crate::app::App::health) | [`Health`]: whether engines answer and consumers run |
//! | [`operations`](crate::app::App::operations) | [`BulkOperations`]: what is done to all events that match, listed, resumed and stopped |
//! | [`schedules`](crate::app::App::schedules) | [`Schedules`]: lists, pauses, fires by hand |
//! | [`sources`](crate::app::App::sources) | [`Sources`]: how far the messages of brokers are stored |
//! | [`subscriptions`](crate::app::App::subscriptions) | [`Subscriptions`]: which queues get copies of broadcasts |
//! | [`queues`](crate::app::App::queues) | [`Queues`]: lists queues; pauses and resumes them and their handlers |
//! | [`stats`](crate::app::App::stats) | [`QueueStats`]: how many messages a queue holds |
//! | [`blocked_keys`](crate::app::App::blocked_keys) | [`BlockedKey`]: ordering keys that wait |
//!
//! What ezq reports by itself is in [`observe`](crate::observe).
//!
//! # Source files
//!
//! The methods themselves are in `app/`.
//!
//! | to see | open |
//! |---|---|
//! | cancelling one event, whether it waits or runs | `cancel.rs` |
//! | giving up one event that waits | `fail.rs` |
//! | settling one message that waits | `by_hand.rs` |
//! | consumers: who runs where | `consumers.rs` |
//! | dead letters: listed, redriven, discarded | `dead_letters.rs` |
//! | the examination of stores | `doctor.rs` |
//! | a queue's errors, grouped | `errors.rs` |
//! | a queue's events, page by page | `events.rs` |
//! | one event acted on; all that match | `acting.rs`, `bulk.rs` |
//! | who did what; what is recorded before it is done | `audit.rs`, `recorded.rs` |
//! | following what is published | `follow.rs` |
//! | whether engines answer and consumers run | `health.rs`, `ingest_health.rs`, `broker_health.rs` |
//! | the history of one event | `history.rs` |
//! | queues: listed, paused, resumed; and their handlers | `queues.rs`, `summary.rs` |
//! | queues: emptied | `purge.rs` |
//! | schedules: listed, paused, fired by hand | `schedules.rs` |
//! | how far the messages of brokers are stored | `sources.rs` |
//! | which queues get copies of broadcast events | `subscriptions.rs` |

pub(crate) mod acting;
pub(crate) mod audit;
mod broker_health;
pub(crate) mod bulk;
pub(crate) mod by_hand;
pub(crate) mod cancel;
pub(crate) mod consumers;
pub(crate) mod dead_letters;
pub(crate) mod doctor;
pub(crate) mod errors;
pub(crate) mod events;
pub(crate) mod fail;
pub(crate) mod follow;
pub(crate) mod health;
pub(crate) mod history;
mod ingest_health;
pub(crate) mod purge;
pub(crate) mod queues;
pub(crate) mod recorded;
pub(crate) mod schedules;
pub(crate) mod sources;
pub(crate) mod subscriptions;
pub(crate) mod summary;

#[doc(no_inline)]
pub use crate::engine::{
    AuditAction, AuditEntry, AuditPage, BlockedKey, Blocker, Cancel, ConsumerPresence, CopyState,
    Count, EventAction, EventCopy, EventFilter, EventPage, EventRef, EventState, EventStatus,
    FailureKey, Finding, History, Operation, OperationStatus, PageCursor, Pause, PauseTarget,
    Preview, QueueStats, QueueSubscription, Severity, Signature, StoredPosition,
};
pub use acting::EventAct;
pub use audit::{Audit, AuditQuery};
pub use bulk::{BulkEvents, BulkOperations, BulkRequest, OperationRun, StopRequest};
pub use cancel::{CancelOutcome, CancelRequest};
pub use consumers::{ConsumerInfo, Consumers, GONE_AFTER};
pub use dead_letters::{DeadLetterAction, DeadLetterFilter, DeadLetterQueue, DeadLetterSelection};
pub use doctor::DoctorRequest;
pub use errors::{ErrorGroup, ErrorGroups};
pub use events::{Events, PageQuery};
pub use fail::FailRequest;
pub use follow::Follow;
pub use health::{ConsumerHealth, EngineHealth, Health};
pub use history::HistoryRequest;
pub use ingest_health::IngestHealth;
pub use purge::PurgeRequest;
pub use queues::{PauseRequest, Queues, ResumeRequest};
pub use recorded::{RecordedAct, recorded};
pub use schedules::{ScheduleStatus, Schedules};
pub use sources::Sources;
pub use subscriptions::{EventParties, Recipient, Subscriptions};
pub use summary::{COUNT_CAP, QueueList, QueueRates, QueueSummary, UnreadableQueue};
