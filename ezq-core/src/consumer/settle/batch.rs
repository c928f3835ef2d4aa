//! One try to settle one batch, and what it leaves to be tried again.

use std::sync::{Arc, Weak};

use tracing::{Instrument, debug_span};

use crate::consumer::leases::Leases;
use crate::consumer::settle::refusal::{give_up, is_refusal};
use crate::consumer::settle::settlement::{PendingSettlement, SettledDelivery};
use crate::engine::{Engine, Receipt, Settle, SettleOutcome};
use crate::error::{Error, ErrorKind, error_chain};
use crate::logging::{error, warn};
use crate::message::queue_name::QueueName;
use crate::observe::metrics::{QueueMetrics, Since, dead_lettered};
use crate::observe::report::{Counters, Disposition};
use crate::observe::status::ConsumerStatus;
use crate::publish::engines::ensure;
use crate::publish::services::Services;

/// Settles batches, each with one try at a time.
pub(crate) struct BatchSettler {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) services: Arc<Services>,
    pub(crate) queue: QueueName,
    pub(crate) leases: Arc<Leases>,
    pub(crate) counters: Arc<Counters>,
    /// Weak: health counts who holds the status.
    pub(crate) status: Weak<ConsumerStatus>,
    pub(crate) metrics: QueueMetrics,
}

/// What of a batch is to be tried again.
pub(crate) struct Remainder {
    pub(crate) batch: Vec<PendingSettlement>,
    /// Why; none if the store refused them as they were.
    pub(crate) error: Option<Error>,
    /// The store as a whole failed, so that the next batch would fail, too.
    pub(crate) is_down: bool,
}

impl Remainder {
    pub(crate) fn why(&self) -> Option<String> {
        self.error.as_ref().map(|error| error_chain(error))
    }
}

/// What of a batch failed.
#[derive(Default)]
struct Failures {
    again: Vec<PendingSettlement>,
    /// A queue is missing that they need.
    missing: Vec<PendingSettlement>,
    /// One of the errors, if possible one that does not pass by itself.
    error: Option<Error>,
}

impl Failures {
    /// The failure of a whole batch.
    fn of_all(batch: Vec<PendingSettlement>, error: Error) -> Self {
        let mut failures = Self::default();
        for one in batch {
            failures.sort(one, error.kind());
        }
        failures.error = Some(error);
        failures
    }

    /// Adds a settlement that failed by itself.
    fn add(&mut self, one: PendingSettlement, error: Error) {
        self.sort(one, error.kind());
        if self.error.as_ref().is_none_or(Error::is_transient) {
            self.error = Some(error);
        }
    }

    fn sort(&mut self, mut one: PendingSettlement, kind: ErrorKind) {
        // The store may have settled it: the lost connection may have lost the answer only.
        one.is_unanswered |= kind == ErrorKind::Connection;
        match kind {
            ErrorKind::QueueMissing => self.missing.push(one),
            _ => self.again.push(one),
        }
    }
}

impl BatchSettler {
    /// Tries once to settle a batch; returns what is to be tried again.
    pub(crate) async fn attempt(&self, mut batch: Vec<PendingSettlement>) -> Option<Remainder> {
        let count = batch.len();
        let span = debug_span!(parent: None, "ezq.settle", queue = %self.queue, count);
        let pairs = batch.iter_mut().map(|one| self.pair(one)).collect();
        let settled = self.engine.settle(&self.queue, pairs);
        let sent = Since::now();
        let result = settled.instrument(span).await;
        self.metrics.settled(sent, count, result.is_ok());

        let is_down = result.is_err();
        let failures = match result {
            Ok(outcomes) => self.book(batch, outcomes),
            Err(error) => {
                self.note(Err(&error));
                Failures::of_all(batch, error)
            }
        };

        let Failures {
            again: mut batch,
            missing,
            error,
        } = failures;
        if !missing.is_empty() {
            batch.extend(self.create_queues(missing).await);
        }
        (!batch.is_empty()).then_some(Remainder {
            batch,
            error,
            is_down,
        })
    }

    /// A settlement as the engine takes it, under the newest receipt.
    fn pair(&self, one: &mut PendingSettlement) -> (Receipt, Settle) {
        let newer = match &one.delivery {
            SettledDelivery::Handled(received) => received.lease.newer(),
            SettledDelivery::Unhandled(receipt) => self.leases.newer(receipt),
        };
        one.tried_as = newer.map(Box::new);
        (one.tried_receipt().clone(), one.settle.clone())
    }

    /// Books what is settled; returns what is to be tried again.
    fn book(&self, batch: Vec<PendingSettlement>, outcomes: Vec<SettleOutcome>) -> Failures {
        let mut failures = Failures::default();
        let mut outcomes = outcomes.into_iter();
        for mut one in batch {
            // An engine that leaves an outcome out leaves it open; the lease tells in the end.
            match outcomes.next().unwrap_or(SettleOutcome::LeaseLost) {
                SettleOutcome::Done => self.settled(one),
                // A claim of this consumer has taken it, or may have: it settles under that receipt.
                SettleOutcome::LeaseLost if self.is_still_held(&mut one) => {
                    failures.again.push(one);
                }
                // Nobody else could take it: an earlier try has settled it.
                SettleOutcome::LeaseLost if one.is_unanswered && one.is_leased() => {
                    self.settled(one);
                }
                SettleOutcome::LeaseLost => self.lost(one),
                SettleOutcome::Failed { error, .. } if is_refusal(&one.settle, &error) => {
                    failures.again.extend(self.replace_refused(one, &error));
                }
                SettleOutcome::Failed { error, .. } => failures.add(one, error),
            }
        }
        failures
    }

    /// Whether this consumer may still hold a delivery whose lease was lost.
    fn is_still_held(&self, one: &mut PendingSettlement) -> bool {
        let Some(newest) = self.leases.newest(one.receipt()) else {
            return false;
        };
        newest != *one.tried_receipt() || self.leases.may_be_claimed_here(&mut one.suspected_claim)
    }

    fn settled(&self, one: PendingSettlement) {
        let disposition = one.disposition;
        let notices = &self.services.notices;
        if disposition == Disposition::Control {
            notices.went_out(one.settle.outgoing());
        } else {
            let message_id = one.receipt().message_id();
            let received = one.delivery.received();
            notices.settled(&self.queue, message_id, received, &one.settle);
            if let Settle::DeadLetter { reason, .. } = &one.settle {
                dead_lettered(&self.queue, reason);
            }
        }
        self.finish(one, disposition);
    }

    fn lost(&self, one: PendingSettlement) {
        let queue = &self.queue;
        let message_id = one.receipt().message_id();
        if one.is_unanswered {
            warn!(
                %queue, %message_id,
                "lease lost: an earlier try has settled the event, or it was taken over"
            );
        } else {
            warn!(%queue, %message_id, "lease lost: the event was taken over");
        }
        self.finish(one, Disposition::Lost);
    }

    /// Leaves a batch to whoever leases it next.
    pub(crate) fn abandon(&self, batch: Vec<PendingSettlement>) {
        for one in batch {
            self.finish(one, Disposition::Lost);
        }
    }

    /// Leaves a delivery to whoever leases it next, unless it is settled already.
    pub(crate) fn abandon_if_held(&self, receipt: &Receipt) {
        if self.leases.release(receipt) {
            self.counters.add(Disposition::Lost);
        }
    }

    /// Lets a delivery go.
    fn finish(&self, one: PendingSettlement, disposition: Disposition) {
        self.leases.release(one.receipt());
        self.counters.add(disposition);
        match one.lane {
            // What follows it must not be handled before it.
            Some(lane) if disposition == Disposition::Lost => lane.revoke(),
            Some(mut lane) => lane.pass(),
            None => {}
        }
    }

    /// Creates the queues that are missing. What publishes to one that cannot be created is refused,
    /// and holds up no other.
    async fn create_queues(&self, batch: Vec<PendingSettlement>) -> Vec<PendingSettlement> {
        if let Err(error) = self.engine.ensure_queue(&self.queue).await {
            warn!(queue = %self.queue, error = %error_chain(&error), "cannot create the queue");
            return batch;
        }

        let mut again = Vec::with_capacity(batch.len());
        for one in batch {
            match ensure(&*self.engine, one.settle.outgoing().iter()).await {
                Err(error) if !error.is_transient() => {
                    again.extend(self.replace_refused(one, &error));
                }
                _ => again.push(one),
            }
        }
        again
    }

    /// Replaces a settlement that the store refuses by a dead letter with the same marks. If even
    /// that is refused, the lease is left to run out.
    fn replace_refused(&self, one: PendingSettlement, error: &Error) -> Option<PendingSettlement> {
        let queue = &self.queue;
        let message_id = one.delivery.receipt().message_id();
        let error = error_chain(error);

        let is_replaceable = match one.settle {
            Settle::Release => false,
            // An engine that is older than this settlement keeps the event as a dead letter.
            Settle::Discard => true,
            Settle::DeadLetter { ref outgoing, .. } => !outgoing.is_empty(),
            Settle::Ack { .. } | Settle::Retry { .. } => true,
        };
        if !is_replaceable {
            error!(%queue, %message_id, error, "the event cannot be settled");
            self.finish(one, Disposition::Lost);
            return None;
        }

        let publishes = !one.settle.outgoing().is_empty();
        let mut progress = one.settle.into_progress();
        if publishes {
            // Its events do not go out: after a redrive the handlers that returned them run again.
            progress = progress.without_done();
        }
        let why = format!("the store refused the settlement: {error}");
        let settle = give_up(queue, message_id, progress, &why);
        Some(PendingSettlement {
            settle,
            disposition: Disposition::DeadLettered,
            ..one
        })
    }

    /// Notes how the store answered a batch.
    pub(crate) fn note(&self, answer: Result<(), &Error>) {
        if let Some(status) = self.status.upgrade() {
            status.settled(answer);
        }
    }

    /// Notes how the store answered settlements that are tried beside the batches.
    pub(crate) fn note_late(&self, answer: Result<(), &Error>) {
        if let Some(status) = self.status.upgrade() {
            status.settled_later(answer);
        }
    }
}
