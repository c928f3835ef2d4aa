//! The core of ezq: events, handlers, dispatch, publishing, consuming, and the contract of engines.
//!
//! Applications depend on the crate `ezq`, which re-exports what they need from here. Depend on this
//! crate to write an engine: see [`engine`].

mod admin;
mod app;
mod clock;
mod codec;
mod config;
mod consumer;
mod delivery;
mod dispatch;
pub mod engine;
mod error;
mod event;
mod handler;
#[doc(hidden)]
pub mod logging;
pub mod memory;
mod message;
mod observe;
#[doc(hidden)]
pub mod private;
mod publish;
mod runtime;
mod schedule;
mod shared;
pub mod testing;
mod text;

// Of other crates, what is in the public interface: docs/stability.md lists it.
pub use async_trait::async_trait;
pub use {chrono, serde_json};

pub use message::headers;

pub use admin::dead_letters::{
    DeadLetterAction, DeadLetterFilter, DeadLetterQueue, DeadLetterSelection,
};
pub use admin::health::{ConsumerHealth, EngineHealth, Health};
pub use admin::history::HistoryRequest;
pub use admin::schedules::{ScheduleStatus, Schedules};
pub use admin::subscriptions::{EventParties, Recipient, Subscriptions};
pub use app::{App, AppBuilder};
pub use codec::raw_json::RawJson;
pub use codec::wire::{MAX_NESTING, Origin, WireFormat, decode, encode, flat_origin};
pub use codec::{Codec, CodecError};
pub use config::{Config, UnknownTypes};
pub use consumer::{Consumer, ConsumerHandle};
pub use delivery::received::Received;
pub use dispatch::inline::{InlineOutcome, InlineReport};
pub use engine::history::{CopyState, EventCopy, EventStatus, History};
pub use engine::{
    BlockedKey, Blocker, Capabilities, Dedupe, Delivery, Due, Engine, ExtendOutcome, MessageId,
    Outgoing, PublishOutcome, QueueStats, QueueSubscription, Receipt, Settle, SettleOutcome,
};
pub use error::{Error, ErrorKind, Result, error_chain};
pub use event::change::{Change, Operation};
pub use event::envelope::{AttributeValue, Envelope, EnvelopeBuilder, VERSION_ATTRIBUTE};
pub use event::pattern::{PATTERN_LIMIT, Pattern};
pub use event::tick::Tick;
pub use event::{End, Event, EventDescriptor, Interrupt};
pub use handler::batch::{
    Batch, BatchCall, BatchFuture, BatchItem, BatchOutput, BatchResults, IntoBatchHandler, Unread,
};
pub use handler::context::{Call, Context};
pub use handler::extract::{Extract, Provided, State};
pub use handler::outcome::{Emit, HandlerError, HandlerOutput, HandlerResultExt};
pub use handler::retry::{Backoff, Jitter, RetryPolicy};
pub use handler::{
    AnyEvent, FromEvent, Handler, HandlerFuture, HandlerOptions, IntoHandler, Subscription,
};
pub use memory::MemoryEngine;
pub use message::headers::Headers;
pub use message::queue_name::{DEAD_LETTER_SUFFIX, QueueName};
pub use message::retention::Retention;
pub use message::settlement::{
    ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
pub use observe::notices::{NOTICES_KEPT, Notice, NoticeKind, NoticeStream};
pub use observe::report::{Counts, Report, StopReason};
pub use observe::status::ConsumerState;
pub use publish::all::{PublishAll, PublishAllError};
pub use publish::broadcast::Broadcast;
pub use publish::builder::{IntoPublish, Publish};
pub use publish::draft::Draft;
pub use publish::prepared::{Prepared, PreparedBroadcast};
pub use publish::published::{Broadcasted, Published};
pub use publish::publisher::Publisher;
pub use schedule::{Missed, Schedule};
pub use text::ERROR_TEXT_LIMIT;
