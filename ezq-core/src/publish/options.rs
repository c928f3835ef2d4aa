//! What may be said of an event when it is published, whichever builder it is said to.
//!
//! The options are methods of each builder, made by a macro: a trait would have to be imported to call
//! them. The first mistake is kept and returned when the builder is awaited, so that options chain.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::engine::Due;
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers::{self, Headers};
use crate::message::queue_name::QueueName;

/// What a publisher may say of its events.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublishOptions {
    pub(crate) queue: Option<QueueName>,
    pub(crate) due: Due,
    pub(crate) source: Option<String>,
    pub(crate) subject: Option<String>,
    /// When it happened, in place of now.
    pub(crate) time: Option<DateTime<Utc>>,
    pub(crate) key: Option<String>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) headers: Option<Headers>,
    pub(crate) dedupe_key: Option<String>,
    pub(crate) dedupe_window: Option<Duration>,
}

impl PublishOptions {
    /// These options; each one that is not set is taken from `others`.
    pub(crate) fn or(self, others: &Self) -> Self {
        let headers = match (self.headers, &others.headers) {
            (Some(own), Some(others)) => Some(own.or(others)),
            (own, others) => own.or_else(|| others.clone()),
        };
        let due = match self.due {
            Due::Now => others.due,
            own => own,
        };
        Self {
            queue: self.queue.or_else(|| others.queue.clone()),
            due,
            source: self.source.or_else(|| others.source.clone()),
            subject: self.subject.or_else(|| others.subject.clone()),
            time: self.time.or(others.time),
            key: self.key.or_else(|| others.key.clone()),
            max_attempts: self.max_attempts.or(others.max_attempts),
            headers,
            dedupe_key: self.dedupe_key.or_else(|| others.dedupe_key.clone()),
            dedupe_window: self.dedupe_window.or(others.dedupe_window),
        }
    }
}

macro_rules! publish_options {
    () => {
        fn with(mut self, set: impl FnOnce(&mut PublishOptions) -> Result<()>) -> Self {
            self.options = self.options.and_then(|mut options| {
                set(&mut options)?;
                Ok(options)
            });
            self
        }

        /// Delays the event: consumers can claim it once this time has passed since it was stored.
        ///
        /// Counted on the engine's clock, to the millisecond or finer. Zero means at once. It replaces
        /// an earlier [`at`](Self::at). Defaults to no delay.
        pub fn after(self, pause: Duration) -> Self {
            self.with(|options| {
                options.due = Due::After(pause);
                Ok(())
            })
        }

        /// Schedules the event: consumers can claim it from this time on.
        ///
        /// Compared with the engine's clock. A time in the past means at once. It replaces an earlier
        /// [`after`](Self::after). Defaults to no delay.
        pub fn at(self, time: DateTime<Utc>) -> Self {
            self.with(|options| {
                options.due = Due::At(time);
                Ok(())
            })
        }

        /// Sets where the event comes from: a URI reference, such as `/sensors/7`. Anything else is
        /// refused when the event is published. Defaults to the application's name.
        pub fn source(self, source: impl Into<String>) -> Self {
            self.with(|options| {
                options.source = Some(source.into());
                Ok(())
            })
        }

        /// Sets what the event is about, within its source. Defaults to none.
        pub fn subject(self, subject: impl Into<String>) -> Self {
            self.with(|options| {
                options.subject = Some(subject.into());
                Ok(())
            })
        }

        /// Sets the ordering key. Events of one key are handled one after another, in the order in
        /// which they were stored, across all consumers of the queue.
        ///
        /// An event that waits for a retry or is not due yet holds up its own key and no other. An
        /// empty key is refused. Defaults to the event's own key,
        /// [`Event::key`](crate::event::Event::key).
        pub fn key(self, key: impl Into<String>) -> Self {
            self.with(|options| {
                options.key = Some(key.into());
                Ok(())
            })
        }

        /// Sets the id that all events of one flow share. Defaults, inside a handler, to that of the
        /// handled event, and else to none.
        pub fn correlation_id(self, id: impl Into<String>) -> Self {
            self.with(|options| {
                let headers = options.headers.get_or_insert_default();
                headers.insert(headers::CORRELATION_ID, id.into());
                Ok(())
            })
        }

        /// Limits the attempts of each handler, the first one included: at least 1. It takes precedence
        /// over the handlers' own policies, which are the default.
        pub fn max_attempts(self, attempts: u32) -> Self {
            self.with(|options| {
                if attempts == 0 {
                    let why = "`max_attempts` of an event must be at least 1";
                    return Err(Error::new(ErrorKind::InvalidEvent, why));
                }
                options.max_attempts = Some(attempts);
                Ok(())
            })
        }

        /// Adds a header of your own, which handlers find in their
        /// [`Context`](crate::handler::Context).
        ///
        /// Inside a handler, `traceparent`, `correlation-id` and `causation-id` default to those of the
        /// handled event; a header that is set here takes precedence. Names that begin with `ezq-` or
        /// `ce-` are refused, and so is the ordering key's: use [`key`](Self::key).
        pub fn header(self, name: &str, value: impl Into<serde_json::Value>) -> Self {
            self.with(|options| {
                crate::publish::options::check_header_name(name)?;
                options.headers.get_or_insert_default().insert(name, value);
                Ok(())
            })
        }
    };
}

/// The queue of one event or of several. The documentation is that of the builder.
macro_rules! queue_option {
    ($(#[$doc:meta])+) => {
        $(#[$doc])+
        pub fn queue(self, queue: impl IntoQueueName) -> Self {
            self.with(|options| {
                options.queue = Some(queue.into_queue_name()?);
                Ok(())
            })
        }
    };
}

/// The dedupe key and its window. The documentation of the key is that of the builder.
macro_rules! dedupe_options {
    ($(#[$doc:meta])+) => {
        $(#[$doc])+
        pub fn dedupe_key(self, key: impl Into<String>) -> Self {
            self.with(|options| {
                options.dedupe_key = Some(key.into());
                Ok(())
            })
        }

        /// Sets for how long the [dedupe key](Self::dedupe_key) is taken, counted on the engine's
        /// clock: more than zero, and refused without a key. Defaults to
        /// [`Config::dedupe_window`](crate::config::Config::dedupe_window).
        pub fn dedupe_window(self, window: Duration) -> Self {
            self.with(|options| {
                options.dedupe_window = Some(window);
                Ok(())
            })
        }
    };
}

pub(crate) use {dedupe_options, publish_options, queue_option};

/// Refuses the names of headers that ezq, the codec or another option writes.
pub(crate) fn check_header_name(name: &str) -> Result<()> {
    let why = if name.starts_with(headers::PREFIX) {
        "is reserved for ezq"
    } else if name.starts_with(headers::CE_PREFIX) {
        "holds an attribute of the event, which its codec writes"
    } else if name == headers::KEY {
        "is the ordering key: set it with `key`"
    } else {
        return Ok(());
    };

    let text = format!("the header `{}` {why}", name.escape_debug());
    Err(Error::new(ErrorKind::ReservedHeader, text))
}
