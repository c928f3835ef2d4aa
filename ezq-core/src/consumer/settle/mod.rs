//! Settling, batch by batch: fenced by the engine, tried again until it works. While the store fails,
//! batches wait; what fails by itself is tried again beside them.

pub(crate) mod outbox;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info};

use crate::clock::later;
use crate::consumer::leases::Leases;
use crate::consumer::settle::outbox::Batches;
use crate::consumer::workload::lanes::Turn;
use crate::delivery::received::Received;
use crate::dispatch::dispatcher::log_dead_letter;
use crate::engine::{Engine, MessageId, Receipt, Settle, SettleOutcome};
use crate::error::{Error, ErrorKind, error_chain};
use crate::logging::{error, warn};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::observe::report::{Counters, Tally};
use crate::observe::status::Observed;
use crate::publish::engines::ensure;
use crate::publish::services::Services;
use crate::text::bounded;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One delivery to be settled.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) receipt: Receipt,
    /// The delivery, if it was read.
    pub(crate) received: Option<Arc<Received>>,
    pub(crate) settle: Settle,
    pub(crate) tally: Tally,
    pub(crate) since: Instant,
    /// Of a delivery with an ordering key that is done with.
    pub(crate) turn: Option<Turn>,
    /// It was tried to settle it, and the answer may have been lost.
    pub(crate) unanswered: bool,
    /// The receipt of the newest try, where it is another than the first.
    pub(crate) tried_as: Option<Receipt>,
    /// Where its lease is lost, and this consumer's own claims may have taken it: the newest of these.
    pub(crate) doubt: Option<u64>,
}

impl Settling {
    /// Whether the lease has not run out by this worker's own clock.
    fn is_leased(&self) -> bool {
        self.received
            .as_ref()
            .is_some_and(|received| !received.lease.is_expired())
    }
}

/// What the settling task works with.
pub(crate) struct Settler {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) services: Arc<Services>,
    pub(crate) queue: QueueName,
    pub(crate) leases: Arc<Leases>,
    pub(crate) counters: Arc<Counters>,
    /// Gone once nobody has the consumer any more.
    pub(crate) observed: Weak<Observed>,
    pub(crate) in_flight: Arc<InFlight>,
    /// How long to go on trying once the consumer has stopped: the leases end then anyway.
    pub(crate) patience: Duration,
}

/// The receipts whose settlement is on its way: a renewal that finds them gone has nothing to say.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<HashSet<Receipt>>);

impl InFlight {
    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<Receipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, receipt: &Receipt) -> bool {
        self.set().contains(receipt)
    }
}

/// What of a batch is to be tried again.
struct Left {
    batch: Vec<Settling>,
    /// Why; none where the store refused them as they were.
    error: Option<Error>,
    /// The store as a whole failed: what comes next would fail as well.
    is_down: bool,
}

impl Left {
    fn why(&self) -> Option<String> {
        self.error.as_ref().map(|error| error_chain(error))
    }
}

/// What of a batch failed, each by itself.
#[derive(Default)]
struct Failures {
    again: Vec<Settling>,
    /// A queue is missing that they need.
    missing: Vec<Settling>,
    /// One of the errors, if possible one that does not pass by itself.
    error: Option<Error>,
}

impl Failures {
    fn add(&mut self, mut one: Settling, error: Error) {
        // The answer may be what was lost.
        one.unanswered |= error.kind() == ErrorKind::Connection;
        match error.kind() {
            ErrorKind::QueueMissing => self.missing.push(one),
            _ => self.again.push(one),
        }
        if self.error.as_ref().is_none_or(Error::is_transient) {
            self.error = Some(error);
        }
    }
}

impl Settler {
    /// Settles what comes until all senders are gone.
    pub(crate) async fn run(self, mut batches: Batches) {
        let settler = Arc::new(self);
        let (closing, mut aside) = (CancellationToken::new(), JoinSet::new());
        let mut give_up = None;
        while let Some(batch) = batches.next().await {
            let left = settler.flush(batch, &batches, &mut give_up).await;
            if !left.is_empty() {
                let later = Arc::clone(&settler).settle_later(left, closing.clone());
                aside.spawn(later.in_current_span());
            }
            // A set keeps what ended until it is asked.
            while aside.try_join_next().is_some() {}
        }
        closing.cancel();
        while aside.join_next().await.is_some() {}
    }

    /// Settles a batch; while the store fails tries again or, once the consumer has stopped, until
    /// it is time to give up, for this batch and those behind it. Some may fail by themselves, such
    /// as one that another session has locked: they are left, and hold up no other.
    async fn flush(
        &self,
        mut batch: Vec<Settling>,
        batches: &Batches,
        give_up: &mut Option<Instant>,
    ) -> Vec<Settling> {
        let mut pause = FIRST_PAUSE;
        let mut warned_of = Vec::new();
        if give_up.is_some_and(|give_up| Instant::now() >= give_up) {
            self.abandon(batch);
            return Vec::new();
        }
        self.in_flight
            .set()
            .extend(batch.iter().map(|one| one.receipt.clone()));
        loop {
            let left = self.attempt(batch).await;
            if let Some(left @ Left { is_down: true, .. }) = left {
                let kind = left.error.as_ref().map(Error::kind);
                if warned_of.contains(&kind) {
                    // An outage lasts for many tries.
                    debug!(queue = %self.queue, error = left.why(), "settling fails still");
                } else {
                    warned_of.push(kind);
                    warn!(queue = %self.queue, error = left.why(), "settling failed, will try again");
                }
                batch = left.batch;
            } else {
                self.note(Ok(()));
                if !warned_of.is_empty() {
                    info!(queue = %self.queue, "settling works again");
                }
                *give_up = None;
                let Some(left) = left else { return Vec::new() };
                if let Some(error) = left.why() {
                    let count = left.batch.len();
                    warn!(queue = %self.queue, count, error, "some events cannot be settled yet");
                }
                return left.batch;
            }
            let (now, count) = (Instant::now(), batch.len());
            if batches.is_closed() && now >= *give_up.get_or_insert(later(now, self.patience)) {
                warn!(queue = %self.queue, count, "gave up settling: these events will come again");
                self.abandon(batch);
                return Vec::new();
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Settles what failed by itself, beside the batches that come: until it works or, once the
    /// consumer has stopped, until it is time to give up.
    async fn settle_later(self: Arc<Self>, mut batch: Vec<Settling>, closing: CancellationToken) {
        let receipts = batch.iter().map(|one| one.receipt.clone()).collect();
        let _held = Held {
            settler: &self,
            receipts,
        };
        let (mut pause, mut give_up) = (FIRST_PAUSE, None);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let Some(left) = self.attempt(batch).await else {
                self.note_left(Ok(()));
                return debug!(queue = %self.queue, "what could not be settled is settled now");
            };
            // A lock that another session holds is no failure of the store's.
            let lasting = left.error.as_ref().filter(|error| !error.is_transient());
            self.note_left(lasting.map_or(Ok(()), Err));
            let (now, count, error) = (Instant::now(), left.batch.len(), left.why());
            debug!(queue = %self.queue, count, error, "some events cannot be settled yet");
            batch = left.batch;
            if closing.is_cancelled() && now >= *give_up.get_or_insert(later(now, self.patience)) {
                return warn!(
                    queue = %self.queue, count, error,
                    "gave up settling: these events will come again"
                );
            }
        }
    }

    /// Tries once to settle a batch; what is to be tried again.
    async fn attempt(&self, mut batch: Vec<Settling>) -> Option<Left> {
        let span =
            debug_span!(parent: None, "ezq.settle", queue = %self.queue, count = batch.len());
        let pairs = batch.iter_mut().map(|one| {
            one.tried_as = match &one.received {
                Some(received) => received.lease.newer(),
                None => self.leases.newer(&one.receipt),
            };
            (
                one.tried_as.as_ref().unwrap_or(&one.receipt).clone(),
                one.settle.clone(),
            )
        });
        let pairs = pairs.collect();
        let result = self
            .engine
            .settle(&self.queue, pairs)
            .instrument(span)
            .await;
        let is_down = result.is_err();
        let failures = match result {
            Ok(outcomes) => self.sort_out(batch, outcomes),
            Err(error) => {
                self.note(Err(&error));
                let mut failures = Failures::default();
                batch
                    .into_iter()
                    .for_each(|one| failures.add(one, error.without_source()));
                Failures {
                    error: Some(error),
                    ..failures
                }
            }
        };
        let Failures {
            again: mut batch,
            missing,
            error,
        } = failures;
        if !missing.is_empty() {
            batch.extend(self.mend(missing).await);
        }
        (!batch.is_empty()).then_some(Left {
            batch,
            error,
            is_down,
        })
    }

    /// Books what is settled; what is left is to be tried again.
    fn sort_out(&self, batch: Vec<Settling>, outcomes: Vec<SettleOutcome>) -> Failures {
        let mut failures = Failures::default();
        let mut outcomes = outcomes.into_iter();
        for mut one in batch {
            // An engine that leaves an outcome out leaves it open; the lease tells in the end.
            match outcomes.next().unwrap_or(SettleOutcome::LeaseLost) {
                SettleOutcome::Done => self.settled(one),
                // A claim of this consumer has taken it, or may have: it settles under that receipt.
                SettleOutcome::LeaseLost if self.is_still_ours(&mut one) => {
                    failures.again.push(one);
                }
                // Nobody else could take it: an earlier try has settled it.
                SettleOutcome::LeaseLost if one.unanswered && one.is_leased() => self.settled(one),
                SettleOutcome::LeaseLost => {
                    let message_id = one.receipt.message_id();
                    if one.unanswered {
                        let text = "lease lost: an earlier try has settled the event, or it was taken over";
                        warn!(queue = %self.queue, %message_id, "{text}");
                    } else {
                        warn!(queue = %self.queue, %message_id, "lease lost: the event was taken over");
                    }
                    self.done(one, Tally::Lost);
                }
                SettleOutcome::Failed { error, .. } => {
                    if is_for_good(&one.settle, &error) {
                        failures.again.extend(self.refuse(one, &error));
                    } else {
                        failures.add(one, error);
                    }
                }
            }
        }
        failures
    }

    /// Whether a delivery whose lease was lost may be held here all the same.
    fn is_still_ours(&self, one: &mut Settling) -> bool {
        let Some(newest) = self.leases.newest(&one.receipt) else {
            return false;
        };
        newest != *one.tried_as.as_ref().unwrap_or(&one.receipt)
            || self.leases.is_in_doubt(&mut one.doubt)
    }

    /// Tells of a settlement that succeeded.
    fn settled(&self, one: Settling) {
        let tally = one.tally;
        let notices = &self.services.notices;
        if tally == Tally::Control {
            notices.went_out(one.settle.outgoing());
        } else {
            let (id, received) = (one.receipt.message_id(), one.received.as_deref());
            notices.settled(&self.queue, id, received, &one.settle);
        }
        self.done(one, tally);
    }

    /// Leaves a batch to whoever leases it next.
    fn abandon(&self, batch: Vec<Settling>) {
        for one in batch {
            self.done(one, Tally::Lost);
        }
    }

    fn note(&self, answer: Result<(), &Error>) {
        if let Some(observed) = self.observed.upgrade() {
            observed.settled(answer);
        }
    }

    /// Notes why some settlements fail that are tried beside those that succeed.
    fn note_left(&self, answer: Result<(), &Error>) {
        if let Some(observed) = self.observed.upgrade() {
            observed.settled_later(answer);
        }
    }

    fn done(&self, one: Settling, tally: Tally) {
        self.leases.release(&one.receipt);
        self.in_flight.set().remove(&one.receipt);
        self.counters.add(tally);
        match one.turn {
            // What follows it must not be handled before it.
            Some(turn) if tally == Tally::Lost => turn.revoke(),
            Some(mut turn) => turn.pass(),
            None => {}
        }
    }

    /// Creates the queues that are missing. What publishes to one that cannot be created is refused,
    /// and holds up no other.
    async fn mend(&self, batch: Vec<Settling>) -> Vec<Settling> {
        if let Err(error) = self.engine.ensure_queue(&self.queue).await {
            warn!(queue = %self.queue, error = %error_chain(&error), "cannot create the queue");
            return batch;
        }
        let mut mended = Vec::with_capacity(batch.len());
        for one in batch {
            match ensure(&*self.engine, one.settle.outgoing().iter()).await {
                Err(error) if !error.is_transient() => mended.extend(self.refuse(one, &error)),
                _ => mended.push(one),
            }
        }
        mended
    }

    /// What to do with a settlement that the store refuses for good: the message, with its marks,
    /// goes to the dead letters; if even that is refused, the lease is left to run out.
    fn refuse(&self, one: Settling, error: &Error) -> Option<Settling> {
        let (queue, message_id, error) =
            (&self.queue, one.receipt.message_id(), error_chain(error));
        let again = match one.settle {
            Settle::Release => false,
            Settle::DeadLetter { ref outgoing, .. } => !outgoing.is_empty(),
            Settle::Ack { .. } | Settle::Retry { .. } => true,
        };
        if !again {
            error!(%queue, %message_id, error, "the event cannot be settled");
            self.done(one, Tally::Lost);
            return None;
        }
        let why = format!("the store refused the settlement: {error}");
        let publishes = !one.settle.outgoing().is_empty();
        let progress = one.settle.into_progress();
        // Its events do not go out: after a redrive the handlers that returned them run again.
        let progress = if publishes {
            progress.without_done()
        } else {
            progress
        };
        let settle = give_up(queue, message_id, progress, &why);
        Some(Settling {
            settle,
            tally: Tally::DeadLettered,
            ..one
        })
    }
}

/// Deliveries whose settlement is tried beside the others. However that ends, they are let go.
struct Held<'a> {
    settler: &'a Settler,
    receipts: Vec<Receipt>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Settler {
            leases,
            in_flight,
            counters,
            ..
        } = self.settler;
        for receipt in self
            .receipts
            .iter()
            .filter(|receipt| in_flight.set().remove(receipt))
        {
            leases.release(receipt);
            counters.add(Tally::Lost);
        }
    }
}

/// Whether it is the settlement itself that the store does not take. What publishes nothing is
/// refused only for what it holds: a right that is missing, or a table, fails for all alike.
fn is_for_good(settle: &Settle, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidEvent | ErrorKind::TooLarge => true,
        ErrorKind::QueueMissing => false,
        _ => !error.is_transient() && !settle.outgoing().is_empty(),
    }
}

/// What a message whose settlement cannot be made becomes instead: a dead letter with these marks.
pub(crate) fn give_up(queue: &QueueName, id: &MessageId, progress: Progress, why: &str) -> Settle {
    let kind = ReasonKind::Fatal;
    let reason = Reason {
        kind,
        handler: None,
        error: bounded(why),
        attempts: 1,
    };
    log_dead_letter(queue, id, None, &reason);
    Settle::DeadLetter {
        reason,
        progress,
        outgoing: Vec::new(),
    }
}
