//! Broadcasting: an event goes to every queue that is subscribed to its type.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::Envelope;
use crate::event::{Event, is_control};
use crate::message::headers;
use crate::observe::metrics::{KnownType, PublishedAs};
use crate::publish::draft::Draft;
use crate::publish::options::{PublishOptions, dedupe_options, publish_options};
use crate::publish::prepared::PreparedBroadcast;
use crate::publish::published::Broadcasted;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;

impl Publisher {
    /// Broadcasts an event: every queue that is subscribed to its type gets a copy, whatever application
    /// the queue belongs to. All copies are stored in one step. It is no error if no queue is subscribed.
    /// Inside a handler with a transaction, the copies are stored at its commit.
    ///
    /// The application's own engine keeps the subscriptions, and the queues that get copies.
    ///
    /// All copies are written alike: by the codec of the event's type, else in the application's
    /// wire form, whatever a queue's codec is. So a queue whose codec is
    /// [exclusive](crate::codec::Codec::is_exclusive) takes copies only of types that have this
    /// codec, by [`event_codec`](crate::app::AppBuilder::event_codec) where they are broadcast or
    /// by their own attribute.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::event::Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// use ezq_core::engine::Engine;
    /// use ezq_core::message::QueueName;
    /// use ezq_core::testing::TestApp;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app)?;
    /// let mail = QueueName::new("mail")?;
    /// app.engine().ensure_queue(&mail).await?;
    /// app.subscriptions()?.add(&mail, "order.*").await?;
    /// let sent = app.broadcast(&Paid { order: 7 }).await?;
    /// assert_eq!(sent.copies[0].queue, mail);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited: as [`publish`](Self::publish). Also [`ErrorKind::InvalidEvent`] for a control event,
    /// and [`ErrorKind::Unsupported`] if the engine does not broadcast.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open whether the copies are stored. Either all of them
    /// are, or none.
    pub fn broadcast<E: Event>(&self, event: &E) -> Broadcast {
        self.broadcast_draft(Draft::of(event))
    }

    /// Broadcasts an event whose type and data are known only at run time, such as another
    /// application's.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    ///
    /// # Cancel safety
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_envelope(&self, envelope: Envelope) -> Broadcast {
        self.broadcast_draft(Ok(Draft::from(envelope)))
    }

    fn broadcast_draft(&self, draft: Result<Draft>) -> Broadcast {
        Broadcast {
            publisher: self.clone(),
            draft,
            options: Ok(PublishOptions::default()),
        }
    }
}

/// Stores a copy of one event in every subscribed queue when awaited, and says where: a
/// [`Broadcasted`].
///
/// The methods set options, which apply to each copy. On PGMQ, `within` (of the trait
/// `PublishWithin`) stores the copies in the caller's transaction.
///
/// # Errors
/// As [`Publisher::broadcast`]. An invalid option is an error when this is awaited.
///
/// # Cancel safety
/// As [`Publisher::broadcast`].
#[derive(Debug)]
#[must_use = "an event is broadcast only when this is awaited"]
pub struct Broadcast {
    publisher: Publisher,
    draft: Result<Draft>,
    options: Result<PublishOptions>,
}

impl Broadcast {
    publish_options!();

    dedupe_options! {
        /// Makes the broadcast idempotent: each queue stores one copy under this key within the
        /// [window](crate::config::Config::dedupe_window); see
        /// [`Publish::dedupe_key`](crate::publish::Publish::dedupe_key). A copy that its queue stored
        /// before is a [duplicate](crate::publish::Published::is_duplicate). Defaults to no key.
    }

    /// The event, with the engine that keeps the subscriptions: for an extension that stores the
    /// copies in a transaction of the caller's. [`PreparedBroadcast::broadcasted`] turns the engine's
    /// answer into the result.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the event or an
    /// option is invalid. [`ErrorKind::Unsupported`] for an option that the engine lacks, and if the
    /// application's own engine is no `E`.
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, PreparedBroadcast)> {
        let options = self.options?;
        let mut draft = self.draft?;
        let traced = self.publisher.trace_broadcast(&mut draft);
        let prepared = prepare(&self.publisher, draft, &options);
        traced.end_with(None, prepared.as_ref().err());

        let prepared = prepared?;
        let engine = self.publisher.services.engines.own::<E>()?.clone();
        Ok((engine, prepared))
    }

    async fn send(self) -> Result<Broadcasted> {
        let publisher = self.publisher;
        let options = self.options?;
        let mut draft = self.draft?;
        let traced = publisher.trace_broadcast(&mut draft);
        let sent = Self::send_draft(&publisher, draft, &options).await;
        traced.end_with(None, sent.as_ref().err());
        sent
    }

    async fn send_draft(
        publisher: &Publisher,
        draft: Draft,
        options: &PublishOptions,
    ) -> Result<Broadcasted> {
        let prepared = prepare(publisher, draft, options)?;

        let event_type = prepared.message.event_type.clone();
        let span = debug_span!("ezq.broadcast", event_id = %prepared.event_id, %event_type);
        let sent = async {
            let services = &publisher.services;
            if let Some(transaction) = &publisher.transaction {
                transaction.broadcast(services, prepared.message).await?;
                return Ok(Broadcasted {
                    event_id: prepared.event_id,
                    copies: Vec::new(),
                    missing: Vec::new(),
                    is_pending: true,
                });
            }

            let store = services.engines.broadcasts()?;
            let known_type = prepared.known_type;
            let call = services.metrics.call([]);
            let copies = store.broadcast(prepared.message.clone()).await;
            call.end(copies.is_ok());
            let broadcasted = prepared.broadcasted(copies?)?;
            count(services, known_type, &broadcasted);
            announce(publisher, &event_type, &broadcasted);
            Ok(broadcasted)
        };
        sent.instrument(span).await
    }
}

/// Writes an event for all queues that are subscribed.
fn prepare(
    publisher: &Publisher,
    draft: Draft,
    options: &PublishOptions,
) -> Result<PreparedBroadcast> {
    let prepared = publisher.write(draft, options, None)?;
    if is_control(&prepared.message.event_type) {
        let text = "a control event stops a consumer: publish it to that consumer's queue";
        return Err(Error::new(ErrorKind::InvalidEvent, text));
    }
    Ok(prepared)
}

/// Counts each copy.
fn count(services: &Services, known_type: KnownType, broadcasted: &Broadcasted) {
    for copy in &broadcasted.copies {
        let published_as = if copy.is_duplicate {
            PublishedAs::Duplicate
        } else {
            PublishedAs::Stored
        };
        services
            .metrics
            .published(&copy.queue, known_type, published_as);
    }
    for queue in &broadcasted.missing {
        services
            .metrics
            .published(queue, known_type, PublishedAs::Failed);
    }
}

/// Tells hooks of each copy, and of each queue that is missing.
fn announce(publisher: &Publisher, event_type: &str, broadcasted: &Broadcasted) {
    let notices = &publisher.services.notices;
    let names = (broadcasted.event_id.as_str(), event_type);
    for copy in &broadcasted.copies {
        notices.published(&copy.queue, names, Ok(copy.stored()));
    }
    for queue in &broadcasted.missing {
        let text = format!("the subscribed queue `{queue}` does not exist");
        let error = Error::new(ErrorKind::QueueMissing, text);
        notices.published(queue, names, Err(&error));
    }
}

impl IntoFuture for Broadcast {
    type Output = Result<Broadcasted>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
