//! Events, handlers, dispatcher, publisher, consumer and the engine contract of ezq.
//!
//! Applications depend on the crate `ezq`, which re-exports what they need from here; depend on
//! this crate to write an engine of your own.

mod admin;
mod app;
mod clock;
mod codec;
mod config;
mod consumer;
mod dispatch;
pub mod engine;
mod error;
mod event;
mod handler;
mod history;
mod logging;
pub mod memory;
mod message;
mod observe;
#[doc(hidden)]
pub mod private;
mod publish;
mod runtime;
mod schedule;
pub mod testing;

pub use chrono;

pub use message::headers;

pub use admin::dead_letters::{
    DeadLetterAction, DeadLetterFilter, DeadLetterQueue, DeadLetterSelection,
};
pub use admin::subscriptions::{EventParties, Recipient, Subscriptions};
pub use app::{App, AppBuilder};
pub use codec::codecs::{Codec, CodecError};
pub use codec::raw_json::RawJson;
pub use codec::wire::{MAX_NESTING, Origin, WireFormat, decode, encode, flat_origin};
pub use config::{Config, UnknownTypes};
pub use consumer::{Consumer, ConsumerHandle, ConsumerState, Counts, Report, StopReason};
pub use dispatch::inline::{InlineOutcome, InlineReport};
pub use engine::{
    BlockedKey, Blocker, Capabilities, Dedupe, Delivery, Due, Engine, ExtendOutcome, MessageId,
    Outgoing, PublishOutcome, QueueStats, QueueSubscription, Receipt, SettleOutcome,
};
pub use error::{Error, ErrorKind, Result, error_chain};
pub use event::change::{Change, Operation};
pub use event::envelope::{AttributeValue, Envelope, EnvelopeBuilder, VERSION_ATTRIBUTE};
pub use event::pattern::{PATTERN_LIMIT, Pattern};
pub use event::{End, Event, EventDescriptor, Interrupt};
pub use handler::batch::{
    Batch, BatchCall, BatchFuture, BatchItem, BatchOutput, BatchResults, IntoBatchHandler, Unread,
};
pub use handler::context::{Call, Context, Received};
pub use handler::extract::{Extract, Provided, State};
pub use handler::outcome::{Emit, HandlerError, HandlerOutput, HandlerResultExt};
pub use handler::retry::{Backoff, RetryPolicy};
pub use handler::{
    AnyEvent, FromEvent, Handler, HandlerFuture, HandlerOptions, IntoHandler, Subscription,
};
pub use history::{CopyState, EventCopy, EventStatus, History, HistoryRequest};
pub use memory::MemoryEngine;
pub use message::headers::Headers;
pub use message::queue_name::{DEAD_LETTER_SUFFIX, QueueName};
pub use message::retention::Retention;
pub use message::settlement::{
    ERROR_TEXT_LIMIT, ERRORS_KEPT, ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress,
    Reason, ReasonKind, Settle,
};
pub use observe::health::{ConsumerHealth, EngineHealth, Health};
pub use observe::notices::{NOTICES_KEPT, Notice, NoticeKind, NoticeStream};
pub use publish::all::{PublishAll, PublishAllError};
pub use publish::broadcast::{Broadcast, Broadcasted, PreparedBroadcast};
pub use publish::builder::Publish;
pub use publish::publisher::{Draft, Prepared, Published, Publisher};
pub use schedule::{Missed, Schedule, ScheduleStatus, Schedules, Tick};
