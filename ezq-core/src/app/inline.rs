//! Inline dispatch of an application's events.

use crate::app::App;
use crate::clock::EngineClock;
use crate::codec::wire::Origin;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::dispatch::dispatcher::Work;
use crate::dispatch::inline::InlineReport;
use crate::dispatch::slots::Slots;
use crate::engine::Due;
use crate::engine::Receipt;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::is_control;
use crate::message::message_id::MessageId;
use crate::publish::builder::{IntoPublish, Publish};
use chrono::Utc;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

impl App {
    /// Runs an event's handlers in this process, now, without a queue: those that a consumer of the
    /// event's queue would run, in their order, with their extractors, timeouts and concurrency
    /// limits. For commands, tests and fallbacks.
    ///
    /// A handler that takes `Tx` gets its transaction, which commits its writes and its events
    /// before this returns. Events that other handlers return are published once they succeeded.
    /// What a queue would guarantee does not hold:
    ///
    /// - **No retry.** A failure is told in the report, whatever the handler's policy says.
    /// - **No lease, nothing stored.** If this process dies, or this future is dropped, what was not
    ///   done is lost, and there are no dead letters and no history.
    /// - **No order, no dedupe.** It waits for no other event of its key, and an event that is
    ///   dispatched twice is handled twice.
    /// - **No batches.** A handler of batches gets a batch of one.
    ///
    /// It takes `&event`, an [`Envelope`](crate::Envelope), or an event with options:
    /// `app.dispatch_inline(app.publish(&event).queue("mail"))`. A delay, a limit of attempts or a
    /// dedupe key is refused, because only a queue can keep them.
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # use ezq_core::{Event, Handler, InlineOutcome};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// async fn receipt(_: Paid) {}
    /// async fn ship(_: Paid) -> Result<(), &'static str> {
    ///     Err("no truck")
    /// }
    /// let app = TestApp::new(|app| {
    ///     app.register(Handler::on("receipt", receipt)).register(Handler::on("ship", ship))
    /// })?;
    /// let report = app.dispatch_inline(&Paid { order: 7 }).await?;
    /// assert_eq!(report.outcomes[0].1, InlineOutcome::Done);
    /// assert_eq!(report.to_string(), "`paid` was dispatched inline; `receipt` done; `ship` failed: no truck");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When nothing ran: for an event that could not be published either, for a control event, and
    /// [`ErrorKind::Unsupported`] where a handler takes a transaction that the queue's engine does
    /// not have. What handlers say is in the report.
    ///
    /// # Cancel safety
    /// Dropping the future stops the handlers where they are; their transactions roll back.
    pub async fn dispatch_inline(&self, event: impl IntoPublish) -> Result<InlineReport> {
        let work = self.work(event.into_publish(&self.publisher()))?;

        let received = &work.received;
        self.inner.check_queue(&received.queue)?;
        let (event_id, event_type) = (received.envelope.id(), received.envelope.event_type());
        let span = received.parent.clone();
        let outcomes = self
            .inner
            .dispatcher
            .run_inline(&work)
            .instrument(span)
            .await;
        let (event_id, event_type) = (event_id.to_owned(), event_type.to_owned());
        Ok(InlineReport {
            event_id,
            event_type,
            outcomes,
        })
    }

    /// The event as a delivery: written and read again, so that handlers see what a queue would
    /// give them.
    fn work(&self, publish: Publish) -> Result<Work> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::InvalidEvent, why));
        let Publish {
            publisher,
            draft,
            options,
        } = publish;
        let (draft, options) = (draft?, options?);
        if options.due != Due::Now {
            return invalid("what is dispatched inline runs now: publish it for a delay");
        }
        if options.max_attempts.is_some() {
            return invalid(
                "what is dispatched inline is tried once: `max_attempts` means nothing",
            );
        }
        if options.dedupe_key.is_some() {
            return invalid(
                "what is dispatched inline is not stored: no dedupe key tells it again",
            );
        }
        let queue = publisher.destination(&draft, &options)?;
        let written = publisher.write(draft, &options, Some(&queue))?;
        if is_control(&written.event_type) {
            return invalid("a control event stops a consumer: publish it to that one's queue");
        }
        let (enqueued_at, message_id, headers) = (Utc::now(), MessageId::Pending, written.headers);
        let origin = Origin {
            queue: &queue,
            message_id: &message_id,
            enqueued_at,
            headers: &headers,
        };
        let mut envelope = publisher.services.codecs.read(&written.body, origin)?;
        // The flat form's id would be its place in a queue.
        envelope.id = written.event_id;
        let lease = Arc::new(Lease::new(Instant::now(), Duration::MAX));
        let receipt = Receipt::new(message_id, [0; 3]);
        let parent = info_span!(
            "ezq.dispatch_inline",
            event_id = envelope.id(),
            event_type = envelope.event_type(),
            %queue,
        );
        let received = Received {
            envelope,
            queue,
            receipt,
            headers,
            deliveries: 1,
            enqueued_at,
            lease,
            parent,
        };
        let clock = EngineClock {
            at: enqueued_at,
            read: Instant::now(),
        };
        Ok(Work {
            received: Arc::new(received),
            clock,
            slots: Arc::<Slots>::default(),
            suspect: Mutex::default(),
        })
    }
}
