//! Publishing one event.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::event::envelope::Envelope;
use crate::message::headers;
use crate::message::queue_name::IntoQueueName;
use crate::publish::draft::Draft;
use crate::publish::options::{PublishOptions, dedupe_options, publish_options, queue_option};
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::publisher::Publisher;

impl Publisher {
    /// Publishes an event: to where its type is [routed](crate::app::AppBuilder::event_queue),
    /// else to its type's own queue, else to the application's.
    ///
    /// Await it at once, or set options first:
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Reminder;
    /// # impl ezq_core::event::Event for Reminder { const TYPE: &'static str = "reminder"; }
    /// # async fn example(publisher: ezq_core::publish::Publisher) -> ezq_core::Result<()> {
    /// use std::time::Duration;
    ///
    /// publisher.publish(&Reminder).await?;
    /// publisher.publish(&Reminder).queue("mail").after(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited:
    /// - [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the event
    ///   or an option is invalid; a retry does not help
    /// - [`ErrorKind::Unsupported`] if the queue's engine lacks what an option asks for
    /// - what kept the engine from storing the event
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open whether the event is stored. With a
    /// [dedupe key](Publish::dedupe_key) it can be published again.
    pub fn publish<E: Event>(&self, event: &E) -> Publish {
        self.publish_draft(Draft::of(event))
    }

    /// Publishes an event whose type and data are known only at run time. Its queue is chosen as for
    /// [`publish`](Self::publish), except that it has no type with a queue of its own.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub fn publish_envelope(&self, envelope: Envelope) -> Publish {
        self.publish_draft(Ok(Draft::from(envelope)))
    }

    fn publish_draft(&self, draft: Result<Draft>) -> Publish {
        Publish {
            publisher: self.clone(),
            draft,
            options: Ok(PublishOptions::default()),
        }
    }
}

/// Stores one event when awaited, and says where: a [`Published`].
///
/// The methods set options; of one option that is set twice, the last value counts. On PGMQ, `within`
/// (of the trait `PublishWithin`) stores the event in the caller's transaction.
///
/// # Errors
/// As [`Publisher::publish`]. An invalid option is an error when this is awaited.
///
/// # Cancel safety
/// As [`Publisher::publish`].
#[derive(Debug)]
#[must_use = "an event is published only when this is awaited"]
pub struct Publish {
    pub(crate) publisher: Publisher,
    pub(crate) draft: Result<Draft>,
    pub(crate) options: Result<PublishOptions>,
}

impl Publish {
    publish_options!();

    queue_option! {
        /// Sets the queue. Defaults to where the type is
        /// [routed](crate::app::AppBuilder::event_queue), else to the type's own queue, else to the
        /// application's.
    }

    dedupe_options! {
        /// Makes the publish idempotent: the event is stored only if the queue stored none under this key
        /// within the [window](crate::config::Config::dedupe_window). Defaults to no key.
        ///
        /// Otherwise it is a [duplicate](Published::is_duplicate): nothing is stored, and the result has the
        /// first event's ids. So a publish may be repeated after an error that leaves open whether it
        /// worked.
        ///
        /// - The key is 1 to 255 bytes without NUL, and counts in its queue only.
        /// - It stays taken until the window ends, even if the event is handled, cancelled or purged before.
        /// - A publish waits for a transaction that holds its key, and takes the key if that rolls back.
        ///
        /// ```
        /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
        /// # impl ezq_core::event::Event for Paid { const TYPE: &'static str = "paid"; }
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
    }

    /// The message as it would be stored, without storing it.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the event or an
    /// option is invalid, and [`ErrorKind::Unsupported`] for an option that the queue's engine lacks.
    pub fn prepare(self) -> Result<Prepared> {
        self.write()
    }

    /// The message. Its span ends here: the caller stores it.
    fn write(self) -> Result<Prepared> {
        let mut draft = self.draft?;
        let options = self.options?;
        let traced = self.publisher.trace(&mut draft, &options);
        let prepared = self.publisher.prepare(draft, &options);
        traced.end_with(None, prepared.as_ref().err());

        let prepared = prepared?;
        prepared.announce(&self.publisher.services.notices);
        Ok(prepared)
    }

    /// The message, with the engine that keeps its queue: for an extension that stores it in a
    /// transaction of the caller's. [`Prepared::published`] turns the engine's answer into the result.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and [`ErrorKind::Unsupported`] if the queue is routed to a named
    /// engine or the application's own engine is no `E`.
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, Prepared)> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.write()?;
        services.engines.check_own(&prepared.outgoing.queue)?;
        Ok((services.engines.own::<E>()?.clone(), prepared))
    }

    async fn store(self) -> Result<Published> {
        let publisher = self.publisher;
        let mut draft = self.draft?;
        let options = self.options?;
        // Begun before the event is written, since its headers carry the span's context.
        let traced = publisher.trace(&mut draft, &options);
        let stored = Self::store_draft(&publisher, draft, &options).await;
        traced.end(stored.as_ref());
        stored
    }

    async fn store_draft(
        publisher: &Publisher,
        draft: Draft,
        options: &PublishOptions,
    ) -> Result<Published> {
        let prepared = publisher.prepare(draft, options)?;
        prepared.announce(&publisher.services.notices);

        let span = debug_span!(
            "ezq.publish",
            queue = %prepared.outgoing.queue,
            event_id = %prepared.event_id,
            event_type = %prepared.event_type,
        );
        let stored = publisher.store(vec![prepared]).instrument(span).await?;
        stored.into_iter().next().unwrap_or_else(|| {
            let text = "the engine returned no outcome";
            Err(Error::new(ErrorKind::Engine, text))
        })
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.store())
    }
}

/// What [`App::dispatch_inline`](crate::app::App::dispatch_inline) and
/// [`PublishAll::add`](crate::publish::PublishAll::add) take: a reference to an event,
/// an [`Envelope`], or either with options, as [`publish`](Publisher::publish) and
/// [`publish_envelope`](Publisher::publish_envelope) return it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no event that can be published",
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
