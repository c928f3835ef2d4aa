//! What is said of an event before it is published: the builders that `publish` returns.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, PublishOutcome};
use crate::headers::{self, Headers};
use crate::publisher::{Draft, Prepared, Published, Publisher};
use crate::{Error, ErrorKind, QueueName, Result};

/// What a publisher may say of its events.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublishOptions {
    pub(crate) queue: Option<QueueName>,
    pub(crate) due: Due,
    pub(crate) subject: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) headers: Option<Headers>,
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

        /// To a queue, in place of the type's or the application's.
        pub fn queue(self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
            self.with(|options| {
                options.queue = Some(queue.try_into()?);
                Ok(())
            })
        }

        /// Readable after a pause, counted on the engine's clock, to the millisecond or finer.
        pub fn after(self, pause: Duration) -> Self {
            self.with(|options| {
                options.due = Due::After(pause);
                Ok(())
            })
        }

        /// Readable from a time on; one in the past means at once.
        pub fn at(self, time: DateTime<Utc>) -> Self {
            self.with(|options| {
                options.due = Due::At(time);
                Ok(())
            })
        }

        /// What the event is about, within its source.
        pub fn subject(self, subject: impl Into<String>) -> Self {
            self.with(|options| {
                options.subject = Some(subject.into());
                Ok(())
            })
        }

        /// The ordering key, in place of the event's own: events of one key are handled one after
        /// another, in the order in which they were stored, across all consumers of the queue. One
        /// that waits for a retry or is not due yet holds up its own key and no other.
        pub fn key(self, key: impl Into<String>) -> Self {
            self.with(|options| {
                options.key = Some(key.into());
                Ok(())
            })
        }

        /// The id that all events of one flow share.
        pub fn correlation_id(self, id: impl Into<String>) -> Self {
            self.with(|options| {
                options.correlation_id = Some(id.into());
                Ok(())
            })
        }

        /// Attempts in all, over the handlers' own policies.
        pub fn max_attempts(self, attempts: u32) -> Self {
            self.with(|options| {
                options.max_attempts = Some(attempts.max(1));
                Ok(())
            })
        }

        /// A header of your own; names that begin with `ezq-` are refused.
        pub fn header(self, name: &str, value: impl Into<serde_json::Value>) -> Self {
            self.with(|options| {
                if name.starts_with(headers::PREFIX) {
                    return Err(Error::new(
                        ErrorKind::InvalidEvent,
                        format!("the header `{}` is ezq's own", name.escape_debug()),
                    ));
                }
                options.headers.get_or_insert_default().insert(name, value);
                Ok(())
            })
        }
    };
}

/// One event about to be published; await it.
#[derive(Debug)]
#[must_use = "an event is published only when this is awaited"]
pub struct Publish {
    pub(crate) publisher: Publisher,
    pub(crate) draft: Result<Draft>,
    pub(crate) options: Result<PublishOptions>,
}

impl Publish {
    publish_options!();

    /// The message, for those who store it in a transaction of their own.
    ///
    /// # Errors
    /// When the event or an option is invalid.
    pub fn prepare(self) -> Result<Prepared> {
        self.publisher.prepare(self.draft?, &self.options?)
    }

    async fn store(self) -> Result<Published> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.prepare()?;
        let span = debug_span!(
            "ezq.publish",
            queue = %prepared.outgoing.queue,
            event_id = %prepared.event_id,
            event_type = %prepared.event_type,
        );
        let Prepared { outgoing, event_id, .. } = prepared;
        let queue = outgoing.queue.clone();
        let outcome = services.engines.publish(vec![outgoing]).instrument(span).await?.pop();
        stored(queue, event_id, outcome)
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

/// Several events about to be published; await it.
#[derive(Debug)]
#[must_use = "events are published only when this is awaited"]
pub struct PublishAll {
    pub(crate) publisher: Publisher,
    pub(crate) drafts: Vec<Result<Draft>>,
    pub(crate) options: Result<PublishOptions>,
}

impl PublishAll {
    publish_options!();

    /// The messages, for those who store them in a transaction of their own.
    ///
    /// # Errors
    /// When an option is invalid; the inner ones when an event is.
    pub fn prepare(self) -> Result<Vec<Result<Prepared>>> {
        let options = self.options?;
        let prepare = |draft: Result<Draft>| self.publisher.prepare(draft?, &options);
        Ok(self.drafts.into_iter().map(prepare).collect())
    }

    async fn store(self) -> Result<Vec<Result<Published>>> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.prepare()?;
        let mut messages = Vec::with_capacity(prepared.len());
        let mut places = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            places.push(prepared.map(|Prepared { outgoing, event_id, .. }| {
                let queue = outgoing.queue.clone();
                messages.push(outgoing);
                (queue, event_id)
            }));
        }
        let mut outcomes = Vec::new();
        if !messages.is_empty() {
            let span = debug_span!("ezq.publish", count = messages.len());
            outcomes = services.engines.publish(messages).instrument(span).await?;
        }
        let mut outcomes = outcomes.into_iter();
        let result = |place: Result<(QueueName, String)>| {
            place.and_then(|(queue, event_id)| stored(queue, event_id, outcomes.next()))
        };
        Ok(places.into_iter().map(result).collect())
    }
}

impl IntoFuture for PublishAll {
    type Output = Result<Vec<Result<Published>>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

fn stored(
    queue: QueueName,
    event_id: String,
    outcome: Option<PublishOutcome>,
) -> Result<Published> {
    match outcome {
        Some(PublishOutcome::Stored(id) | PublishOutcome::Duplicate(Some(id))) => {
            Ok(Published { queue, id, event_id })
        }
        Some(PublishOutcome::Failed(error)) => Err(error),
        Some(PublishOutcome::Duplicate(None)) | None => {
            Err(Error::new(ErrorKind::Engine, "the engine did not say where the event is stored"))
        }
    }
}
