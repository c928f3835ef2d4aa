//! Inline dispatch: an event's handlers run here and now, without a queue.
//!
//! The event is written and read again, as a queue would do it, and then given to the same dispatcher.
//! There is no lease, no retry and no settlement.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::app::App;
use crate::clock::EngineClock;
use crate::codec::wire::Origin;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::dispatch::admission::Admission;
use crate::dispatch::inline::InlineReport;
use crate::dispatch::work::Work;
use crate::engine::{Due, Outgoing, Receipt, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::event::is_control;
use crate::message::message_id::MessageId;
use crate::publish::builder::{IntoPublish, Publish};
use crate::publish::options::PublishOptions;
use crate::publish::prepared::Prepared;

impl App {
    /// Runs the handlers of an event now, in this process, without a queue. For commands, tests and
    /// fallbacks.
    ///
    /// These are the handlers that a consumer of the event's queue would run, in their order, with their
    /// extractors, timeouts and concurrency limits. A handler that takes `Tx` gets its transaction, which
    /// commits its writes and its events before this returns. Events that other handlers return are
    /// published when they have succeeded.
    ///
    /// The guarantees of a queue do not hold:
    ///
    /// - **No retry.** A failure is in the report, whatever the handler's policy.
    /// - **No lease, nothing stored.** If this process dies, or this future is dropped, the rest of the
    ///   work is lost. There are no dead letters and no history.
    /// - **No order, no dedupe.** It waits for no other event of its key, and an event that is
    ///   dispatched twice is handled twice.
    /// - **No batches.** A batch handler gets a batch of one.
    ///
    /// It takes `&event`, an [`Envelope`](crate::event::Envelope), or an event with options:
    /// `app.dispatch_inline(app.publish(&event).queue("mail"))`. A delay, a limit of attempts or a
    /// dedupe key is refused, because only a queue can keep them.
    ///
    /// ```
    /// # use ezq_core::app::InlineOutcome;
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::Handler;
    /// # use ezq_core::testing::TestApp;
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
    /// An error means that no handler ran. Errors of handlers are in the report.
    ///
    /// - As publishing the event.
    /// - [`ErrorKind::InvalidEvent`] for a control event.
    /// - [`ErrorKind::Unsupported`] if a handler takes a transaction and the queue's engine has none.
    ///
    /// # Cancel safety
    /// Dropping the future stops the handlers at their next await, and rolls their transactions back.
    pub async fn dispatch_inline(&self, event: impl IntoPublish) -> Result<InlineReport> {
        let work = self.work(event.into_publish(&self.publisher()))?;
        let received = &work.received;
        self.inner.check_queue(&received.queue)?;

        let span = received.parent.clone();
        let run = self.inner.dispatcher.run_inline(&work);
        let outcomes = run.instrument(span).await;

        Ok(InlineReport {
            event_id: received.envelope.id().to_owned(),
            event_type: received.envelope.event_type().to_owned(),
            outcomes,
        })
    }

    /// The event as a delivery. It is written and read again, so that handlers see what they would get
    /// from a queue.
    fn work(&self, publish: Publish) -> Result<Work> {
        let Publish {
            publisher,
            draft,
            options,
        } = publish;
        let draft = draft?;
        let options = options?;
        check_inline(&options)?;

        let Prepared {
            outgoing,
            event_id,
            event_type,
            ..
        } = publisher.prepare(draft, &options)?;
        if is_control(&event_type) {
            return Err(refused(
                "a control event stops a consumer: publish it to that consumer's queue",
            ));
        }

        let Outgoing {
            queue,
            body,
            headers,
            ..
        } = outgoing;
        let enqueued_at = Utc::now();
        let message_id = MessageId::Pending;
        let origin = Origin {
            queue: &queue,
            message_id: &message_id,
            enqueued_at,
            headers: &headers,
        };
        let mut envelope = publisher.services.codecs.read(&body, origin)?;
        // In the flat form the event would have the id of its place in a queue, and it has no place.
        envelope.id = event_id;

        // A lease that never ends, and a receipt that settles nothing.
        let lease = Arc::new(Lease::new(Instant::now(), Duration::MAX));
        let receipt = Receipt::new(message_id, Token::default());
        let parent = info_span!(
            "ezq.dispatch_inline",
            event_id = envelope.id(),
            event_type = envelope.event_type(),
            %queue,
        );
        let received = Received {
            envelope,
            body: None,
            queue,
            receipt,
            headers,
            deliveries: 1,
            enqueued_at,
            due: enqueued_at,
            clock: EngineClock {
                at: enqueued_at,
                read: Instant::now(),
            },
            lease,
            parent,
        };
        Ok(Work::new(received, Arc::<Admission>::default()))
    }
}

/// Refuses options that only a queue can keep.
fn check_inline(options: &PublishOptions) -> Result<()> {
    if options.due != Due::Now {
        return Err(refused(
            "an inline dispatch runs at once: publish the event to delay it",
        ));
    }
    if options.max_attempts.is_some() {
        return Err(refused(
            "an inline dispatch makes one attempt: leave out `max_attempts`",
        ));
    }
    if options.dedupe_key.is_some() {
        return Err(refused(
            "an inline dispatch stores nothing: leave out the dedupe key",
        ));
    }
    Ok(())
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::InvalidEvent, why)
}
