//! Inline dispatch: an event's handlers run in this process, now, without a queue.
//!
//! Nothing is stored and nothing is leased: what fails is told, and never tried again.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::clock::EngineClock;
use crate::codec::wire::Origin;
use crate::dispatch::attempt::Ran;
use crate::dispatch::batch_attempt::{self, Member};
use crate::dispatch::dispatcher::{Dispatcher, Work};
use crate::dispatch::slots::Slots;
use crate::engine::{MessageId, Receipt, SettleOutcome};
use crate::event::is_control;
use crate::handler::context::{Lease, Received};
use crate::handler::outcome::Action;
use crate::handler::{Handler, Invoke};
use crate::publish::builder::Publish;
use crate::{App, Due, Error, ErrorKind, Event, HandlerName, Progress, Result, error_chain};

/// What the handlers of an event did that was dispatched inline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "what failed is told here and nowhere else, and is not tried again"]
pub struct InlineReport {
    /// The event's id.
    pub event_id: String,
    /// The event's type name.
    pub event_type: String,
    /// Each handler that takes it, in the order in which they run; none if no handler here does.
    pub outcomes: Vec<(HandlerName, InlineOutcome)>,
}

/// What one handler did with an event that was dispatched inline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InlineOutcome {
    /// It succeeded; its transaction, if it has one, is committed, and its events are published.
    Done,
    /// The event was of no use to it, for this reason.
    Discarded(String),
    /// It asked to be run later, with this error if it was one. Nobody does that.
    PutOff {
        /// How much later.
        after: Duration,
        /// Its error, or that it snoozed.
        error: String,
    },
    /// It failed. Its transaction, if it has one, is rolled back.
    Failed {
        /// Its error, a panic, a timeout, or what kept its transaction or its events back.
        error: String,
        /// It says that no retry can help.
        is_fatal: bool,
    },
}

impl InlineOutcome {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Discarded(_))
    }
}

impl InlineReport {
    /// Whether every handler is done; also if there is none.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcomes.iter().all(|(_, outcome)| outcome.is_done())
    }

    /// The handlers that are not done.
    pub fn failures(&self) -> impl Iterator<Item = (&HandlerName, &InlineOutcome)> {
        let undone = self
            .outcomes
            .iter()
            .filter(|(_, outcome)| !outcome.is_done());
        undone.map(|(name, outcome)| (name, outcome))
    }

    /// Nothing, if every handler is done.
    ///
    /// # Errors
    /// [`ErrorKind::HandlerFailed`], with every handler that is not done, and why.
    pub fn into_result(self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::HandlerFailed, self.to_string()))
    }
}

impl fmt::Display for InlineOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Discarded(reason) => write!(f, "discarded: {reason}"),
            Self::PutOff { after, error } => write!(f, "put off for {after:?}: {error}"),
            Self::Failed { error, .. } => write!(f, "failed: {error}"),
        }
    }
}

impl fmt::Display for InlineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was dispatched inline", self.event_type)?;
        let outcomes = self.outcomes.iter();
        outcomes
            .clone()
            .try_for_each(|(name, outcome)| write!(f, "; `{name}` {outcome}"))?;
        if outcomes.len() == 0 {
            f.write_str("; no handler takes it")
        } else {
            Ok(())
        }
    }
}

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
    pub async fn dispatch_inline<E: Event>(&self, event: &E) -> Result<InlineReport> {
        self.dispatch_prepared_inline(self.publish(event)).await
    }

    /// As [`dispatch_inline`](Self::dispatch_inline), for an event with options, or one known only
    /// at run time: `app.dispatch_prepared_inline(app.publish(&event).queue("mail"))`. A delay or a
    /// dedupe key is refused: only a queue can keep them.
    ///
    /// # Errors
    /// As [`dispatch_inline`](Self::dispatch_inline).
    ///
    /// # Cancel safety
    /// As [`dispatch_inline`](Self::dispatch_inline).
    pub async fn dispatch_prepared_inline(&self, publish: Publish) -> Result<InlineReport> {
        let work = self.work(publish)?;
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

impl Dispatcher {
    async fn run_inline(&self, work: &Work) -> Vec<(HandlerName, InlineOutcome)> {
        let received = &work.received;
        let handlers = self.registry.find(&received.queue, &received.envelope);
        let mut outcomes = Vec::with_capacity(handlers.len());
        for group in handlers.chunk_by(|a, b| a.order == b.order) {
            let runs = group
                .iter()
                .map(|handler| self.run_one_inline(handler, work));
            let names = group.iter().map(|handler| handler.name.clone());
            outcomes.extend(names.zip(join_all(runs).await));
        }
        outcomes
    }

    async fn run_one_inline(&self, handler: &Handler, work: &Work) -> InlineOutcome {
        let ran = match &handler.invoke {
            Invoke::One(_) => self.run(handler, work, &Progress::default(), None).await,
            Invoke::Batch(invoke) => {
                let member = Member {
                    received: Arc::clone(&work.received),
                    attempt: 1,
                    done: batch_attempt::first_time(),
                    is_sole: true,
                };
                let means = self.means(handler, invoke);
                let _turn = match means.turns {
                    Some(turns) => turns.acquire().await.ok(),
                    None => None,
                };
                let ran = batch_attempt::run(means, &[member], Vec::new(), true).await;
                ran.map_or_else(|ran| ran, |mut each| each.pop().unwrap_or(Ran::Cancelled))
            }
        };
        let failed = |error: String| InlineOutcome::Failed {
            error,
            is_fatal: false,
        };
        match ran {
            Ran::Done(events, None) => match self.services.publish_returned(events).await {
                Ok(()) => InlineOutcome::Done,
                Err(why) => failed(format!(
                    "its events could not be published: {}",
                    error_chain(&why)
                )),
            },
            Ran::Done(events, Some(unit)) => {
                let notices = &self.services.notices;
                let told = if notices.are_heard() {
                    events.clone()
                } else {
                    Vec::new()
                };
                match unit.finish(Vec::new(), events).await {
                    Ok(SettleOutcome::Done) => {
                        notices.went_out(&told);
                        InlineOutcome::Done
                    }
                    Ok(SettleOutcome::LeaseLost) => failed("its transaction had ended".into()),
                    Ok(SettleOutcome::Failed { error, .. }) | Err(error) => failed(format!(
                        "it could not be committed: {}",
                        error_chain(&error)
                    )),
                }
            }
            Ran::Marked | Ran::Settled => InlineOutcome::Done,
            Ran::Failed(action, error) => match action {
                Action::Discard => InlineOutcome::Discarded(error),
                Action::Snooze(after) | Action::RetryAfter(after) => {
                    InlineOutcome::PutOff { after, error }
                }
                Action::Retry => failed(error),
                Action::Fatal | Action::Undecodable | Action::NewerVersion => {
                    InlineOutcome::Failed {
                        error,
                        is_fatal: true,
                    }
                }
            },
            Ran::PutOff(error) => failed(format!("its transaction could not be made: {error}")),
            Ran::Cancelled => failed("it was cancelled".into()),
        }
    }
}
