//! Events, handlers, dispatcher, publisher, consumer and the engine contract of ezq.
//!
//! Applications depend on the crate `ezq`, which re-exports what they need from here; depend on
//! this crate to write an engine of your own.

mod app;
mod attempt;
mod attributes;
mod batch;
mod batch_attempt;
mod batcher;
mod broadcast;
mod change;
mod clock;
mod codec;
mod codecs;
mod config;
mod consumer;
mod context;
mod dead_letters;
mod dispatcher;
pub mod engine;
mod engines;
mod envelope;
mod environment;
mod error;
mod event;
mod extract;
mod finishing;
mod finite;
mod gathering;
mod handler;
pub mod headers;
mod health;
mod hindrance;
mod history;
mod in_place;
mod inline;
mod inner;
mod limits;
mod logging;
mod notices;
mod operating;
mod outcome;
mod pattern;
#[doc(hidden)]
pub mod private;
mod publish;
mod publish_all;
mod publisher;
mod queue_name;
mod quickness;
mod raw_json;
mod reach;
mod registry;
mod retention;
mod retry;
mod routing;
mod runtime;
mod schedule;
mod settlement;
mod slots;
mod subscriptions;
pub mod testing;
mod transaction;
mod unknown;

pub use chrono;

pub use app::{App, AppBuilder};
pub use batch::{
    Batch, BatchCall, BatchFuture, BatchItem, BatchOutput, BatchResults, IntoBatchHandler, Unread,
};
pub use broadcast::{Broadcast, Broadcasted, PreparedBroadcast};
pub use change::{Change, Operation};
pub use codec::{MAX_NESTING, Origin, WireFormat, decode, encode, flat_origin};
pub use codecs::{Codec, CodecError};
pub use config::{Config, UnknownTypes};
pub use consumer::{Consumer, ConsumerHandle, ConsumerState, Counts, Report, StopReason};
pub use context::{Call, Context, Received};
pub use dead_letters::{DeadLetterAction, DeadLetterFilter, DeadLetterQueue, DeadLetterSelection};
pub use engine::memory::MemoryEngine;
pub use engine::{
    BlockedKey, Blocker, Capabilities, Dedupe, Delivery, Due, Engine, ExtendOutcome, MessageId,
    Outgoing, PublishOutcome, QueueStats, QueueSubscription, Receipt, SettleOutcome,
};
pub use envelope::{AttributeValue, Envelope, EnvelopeBuilder, VERSION_ATTRIBUTE};
pub use error::{Error, ErrorKind, Result, error_chain};
pub use event::{End, Event, EventDescriptor, Interrupt};
pub use extract::{Extract, Provided, State};
pub use handler::{
    AnyEvent, FromEvent, Handler, HandlerFuture, HandlerOptions, IntoHandler, Subscription,
};
pub use headers::Headers;
pub use health::{ConsumerHealth, EngineHealth, Health};
pub use history::{CopyState, EventCopy, EventStatus, History, HistoryRequest};
pub use inline::{InlineOutcome, InlineReport};
pub use notices::{NOTICES_KEPT, Notice, NoticeKind, NoticeStream};
pub use outcome::{Emit, HandlerError, HandlerOutput, HandlerResultExt};
pub use pattern::{PATTERN_LIMIT, Pattern};
pub use publish::Publish;
pub use publish_all::{PublishAll, PublishAllError};
pub use publisher::{Draft, Prepared, Published, Publisher};
pub use queue_name::{DEAD_LETTER_SUFFIX, QueueName};
pub use raw_json::RawJson;
pub use retention::Retention;
pub use retry::{Backoff, RetryPolicy};
pub use schedule::{Missed, Schedule, ScheduleStatus, Schedules, Tick};
pub use settlement::{
    ERROR_TEXT_LIMIT, ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress,
    Reason, ReasonKind, Settle,
};
pub use subscriptions::{EventParties, Recipient, Subscriptions};
