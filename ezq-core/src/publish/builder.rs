//! What is said of an event before it is published: the builders that `publish` returns.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::event::envelope::Envelope;
use crate::message::headers::{self, Headers};
use crate::message::queue_name::QueueName;
use crate::publish::publisher::{Draft, Prepared, Published, Publisher};

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

macro_rules! publish_options {
    () => {
        fn with(mut self, set: impl FnOnce(&mut PublishOptions) -> Result<()>) -> Self {
            self.options = self.options.and_then(|mut options| {
                set(&mut options)?;
                Ok(options)
            });
            self
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

        /// Where the event comes from, in place of the application's name: a URI reference, such as
        /// `/sensors/7`. Refused when it is published if it is none.
        pub fn source(self, source: impl Into<String>) -> Self {
            self.with(|options| {
                options.source = Some(source.into());
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
        /// that waits for a retry or is not due yet holds up its own key and no other. An empty key is
        /// refused.
        pub fn key(self, key: impl Into<String>) -> Self {
            self.with(|options| {
                options.key = Some(key.into());
                Ok(())
            })
        }

        /// The id that all events of one flow share. Inside a handler it defaults to that of the
        /// event that is handled.
        pub fn correlation_id(self, id: impl Into<String>) -> Self {
            self.with(|options| {
                let headers = options.headers.get_or_insert_default();
                headers.insert(headers::CORRELATION_ID, id.into());
                Ok(())
            })
        }

        /// Attempts in all, at least 1, over the handlers' own policies.
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

        /// A header of your own, or one that a handler's events would get from the event that it
        /// handles (`traceparent`, `correlation-id`, `causation-id`): yours counts. Names that begin
        /// with `ezq-` or `ce-` are refused, and so is the ordering key, which [`key`](Self::key)
        /// says.
        pub fn header(self, name: &str, value: impl Into<serde_json::Value>) -> Self {
            self.with(|options| {
                crate::publish::builder::free_header(name)?;
                options.headers.get_or_insert_default().insert(name, value);
                Ok(())
            })
        }
    };
}

pub(crate) use publish_options;

/// Whether a publisher may set a header by its name.
pub(crate) fn free_header(name: &str) -> Result<()> {
    let why = if name.starts_with(headers::PREFIX) {
        "is ezq's own"
    } else if name.starts_with(headers::CE_PREFIX) {
        "holds an attribute of the event, which its codec writes"
    } else if name == headers::KEY {
        "is the ordering key: say it with `key`"
    } else {
        return Ok(());
    };
    let text = format!("the header `{}` {why}", name.escape_debug());
    Err(Error::new(ErrorKind::InvalidEvent, text))
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

    /// To a queue, in place of what routes, the type or the application say.
    pub fn queue(self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
        self.with(|options| {
            options.queue = Some(queue.try_into()?);
            Ok(())
        })
    }

    /// Stored only if the queue stored no event under this key within the
    /// [window](crate::Config::dedupe_window): then this one is a [duplicate](Published::is_duplicate), nothing is
    /// stored, and the first event's ids are told. So a publish may be repeated after an error that
    /// leaves open whether it worked.
    ///
    /// The key is 1 to 255 bytes without NUL and counts in its queue alone. It stays taken until the
    /// window ends, whatever became of the event since: handled, cancelled or purged. A publish
    /// waits for a transaction that holds its key, and takes the key if that one rolls back.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::Event for Paid { const TYPE: &'static str = "paid"; }
    /// use ezq_core::testing::TestApp;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app)?;
    /// let first = app.publish(&Paid { order: 7 }).dedupe_key("paid-7").await?;
    /// let again = app.publish(&Paid { order: 7 }).dedupe_key("paid-7").await?;
    /// assert!(again.is_duplicate && again.event_id == first.event_id);
    /// # Ok(()) }
    /// ```
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        self.with(|options| {
            options.dedupe_key = Some(key.into());
            Ok(())
        })
    }

    /// For how long the [dedupe key](Self::dedupe_key) is taken, counted on the engine's clock, in
    /// place of [`Config::dedupe_window`](crate::Config::dedupe_window); more than nothing.
    pub fn dedupe_window(self, window: Duration) -> Self {
        self.with(|options| {
            options.dedupe_window = Some(window);
            Ok(())
        })
    }

    /// The message as it would be stored, without storing it.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the event or an
    /// option is invalid, and [`ErrorKind::Unsupported`] for an option that the queue's engine lacks.
    pub fn prepare(self) -> Result<Prepared> {
        let prepared = self.publisher.prepare(self.draft?, &self.options?)?;
        prepared.tell(&self.publisher.services.notices);
        Ok(prepared)
    }

    /// The message, with the engine that keeps its queue: for an extension that stores it in a
    /// transaction of the caller's. [`Prepared::published`] turns the engine's answer into the result.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and [`ErrorKind::Unsupported`] if the queue is routed to a named
    /// engine or the application's own engine is no `E`.
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, Prepared)> {
        let prepared = self.publisher.prepare(self.draft?, &self.options?)?;
        let services = &self.publisher.services;
        prepared.tell(&services.notices);

        services.engines.check_own(&prepared.outgoing.queue)?;
        Ok((services.engines.own::<E>()?.clone(), prepared))
    }

    async fn store(self) -> Result<Published> {
        let publisher = self.publisher.clone();
        let prepared = self.prepare()?;
        let span = debug_span!(
            "ezq.publish",
            queue = %prepared.outgoing.queue,
            event_id = %prepared.event_id,
            event_type = %prepared.event_type,
        );
        let stored = publisher
            .store(vec![prepared])
            .instrument(span)
            .await?
            .pop();
        let lost = || Error::new(ErrorKind::Engine, "the engine gave no outcome");
        stored.unwrap_or_else(|| Err(lost()))
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

/// What [`App::dispatch_inline`](crate::App::dispatch_inline) takes: a reference to an event, an
/// [`Envelope`], or either with options, as [`publish`](Publisher::publish) and
/// [`publish_envelope`](Publisher::publish_envelope) return it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no event that can be dispatched",
    note = "pass `&event`, an `Envelope`, or `app.publish(&event)` with options"
)]
pub trait IntoPublish {
    /// The event with its options.
    fn into_publish(self, publisher: &Publisher) -> Publish;
}

impl<E: Event> IntoPublish for &E {
    fn into_publish(self, publisher: &Publisher) -> Publish {
        publisher.publish(self)
    }
}

impl IntoPublish for Envelope {
    fn into_publish(self, publisher: &Publisher) -> Publish {
        publisher.publish_envelope(self)
    }
}

impl IntoPublish for Publish {
    fn into_publish(self, _: &Publisher) -> Publish {
        self
    }
}
