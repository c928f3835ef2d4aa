//! What a consumer's coordinator and its running deliveries share: which of them take a place of the
//! consumer's concurrency, what has begun, and whether anything new may begin.
//!
//! Each idea has a type of its own: [parked deliveries](super::parked), what is
//! [paused](super::paused), the
//! [quarantine](super::quarantine), the [gate](super::claim_gate) of claims without a lease,
//! [starts](super::starts), [backlogs](super::backlogs) of handlers with a limit and
//! [open batches](super::open_batches). This file has what wakes the coordinator, and the guards.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::dispatch::backlogs::Backlogs;
use crate::dispatch::claim_gate::ClaimGate;
// cycle: an entry of an open batch holds the guard of its start, which is counted here.
use crate::dispatch::open_batches::{Entry, OpenBatch, OpenBatches};
use crate::dispatch::parked::ParkedCount;
use crate::dispatch::paused::Paused;
use crate::dispatch::quarantine::Quarantine;
use crate::dispatch::starts::{Stage, Starts};
use crate::message::settlement::HandlerName;

/// The state that one consumer's coordinator shares with its deliveries.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// How many deliveries the consumer handles at once; 0 outside a consumer.
    concurrency: usize,
    pub(crate) parked: ParkedCount,
    pub(crate) paused: Paused,
    pub(crate) quarantine: Quarantine,
    pub(crate) claim_gate: ClaimGate,
    pub(crate) backlogs: Backlogs,
    pub(crate) open_batches: OpenBatches,
    starts: Starts,
    /// Parked deliveries whose handlers may go on once there is a place, in the order they asked.
    requests: Mutex<VecDeque<PlaceRequest>>,
    changed: Notify,
    stopped: CancellationToken,
}

/// A parked delivery's request for a place.
#[derive(Debug)]
struct PlaceRequest {
    grant: oneshot::Sender<GrantedPlace>,
    is_suspect: bool,
}

impl Admission {
    /// For a consumer that handles so many deliveries at once.
    pub(crate) fn of(concurrency: usize, backlogs: Backlogs) -> Self {
        Self {
            concurrency,
            backlogs,
            ..Self::default()
        }
    }

    /// How many events of a failed batch may run beside each other.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency.max(1)
    }

    /// Waits until a delivery was parked or asked for a place since the last call. While starts are
    /// [watched](Self::watch), also until a batch was opened or everything started has begun.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Counts a suspect as running until the guard is dropped.
    pub(crate) fn enter_quarantine(self: &Arc<Self>) -> Suspect {
        self.quarantine.enter();
        Suspect(Arc::clone(self))
    }

    /// Parks a delivery until the guard is dropped.
    pub(crate) fn park(self: &Arc<Self>, is_limited: bool) -> Parked {
        self.parked.add(is_limited);
        self.changed.notify_one();

        Parked {
            admission: Arc::clone(self),
            is_limited,
            is_counted: true,
        }
    }

    /// Waits until the coordinator gives a parked delivery a place; returns the guard of a suspect.
    /// Outside a consumer there is a place for every delivery.
    pub(crate) async fn place(&self, mut parked: Parked, is_suspect: bool) -> Option<Suspect> {
        if self.concurrency == 0 {
            return None;
        }

        let (grant, granted) = oneshot::channel();
        self.requests()
            .push_back(PlaceRequest { grant, is_suspect });
        self.changed.notify_one();

        // The sender is dropped with the consumer.
        let mut granted = granted.await.ok()?;
        // From here on the delivery counts as running: neither guard is to count it again.
        granted.admission = None;
        parked.is_counted = false;
        granted.suspect.take()
    }

    /// Gives a place to the first delivery that asks for one. False if there is none.
    pub(crate) fn grant_place(self: &Arc<Self>) -> bool {
        while let Some(PlaceRequest { grant, is_suspect }) = self.next_request() {
            // The delivery counts as running from now on, before its task is polled. Only what waits
            // for a handler's limit asks for a place.
            self.parked.remove(true);
            let granted = GrantedPlace {
                admission: Some(Arc::clone(self)),
                suspect: is_suspect.then(|| self.enter_quarantine()),
            };

            if grant.send(granted).is_ok() {
                return true;
            }
        }
        false
    }

    /// The first request; one of a suspect only while no other suspect runs.
    fn next_request(&self) -> Option<PlaceRequest> {
        let is_occupied = self.quarantine.is_occupied();
        let mut requests = self.requests();
        let index = requests
            .iter()
            .position(|request| !(request.is_suspect && is_occupied))?;
        requests.remove(index)
    }

    fn requests(&self) -> MutexGuard<'_, VecDeque<PlaceRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the open batch of a handler. True if it was opened by this and is to be led.
    pub(super) fn join_batch(
        &self,
        handler: &HandlerName,
        size: usize,
        entry: Entry,
    ) -> (Arc<OpenBatch>, bool) {
        let (batch, leads) = self.open_batches.join(handler, size, entry);

        // The coordinator may have closed all batches just before this one was opened.
        if leads && self.starts.is_watched() {
            self.changed.notify_one();
        }
        (batch, leads)
    }

    /// Counts a delivery as started until its task was polled.
    pub(crate) fn starting(self: &Arc<Self>) -> StartGuard {
        self.guard(Stage::Poll, None)
    }

    /// Counts a handler as not called until the guard is dropped; one with a limit also in its
    /// backlog.
    pub(crate) fn calling(self: &Arc<Self>, backlog: Option<usize>) -> StartGuard {
        self.guard(Stage::Call, backlog)
    }

    fn guard(self: &Arc<Self>, stage: Stage, backlog: Option<usize>) -> StartGuard {
        self.starts.add(stage);
        if let Some(index) = backlog {
            self.backlogs.add(index);
        }

        StartGuard {
            admission: Arc::clone(self),
            stage,
            backlog,
        }
    }

    /// Whether every delivery that was started was polled: it runs, or waits for what it needs.
    pub(crate) fn are_polled(&self) -> bool {
        self.starts.are_polled()
    }

    /// Whether the handlers of all deliveries that were started were called.
    pub(crate) fn have_begun(&self) -> bool {
        self.starts.have_begun()
    }

    /// Lets [`changed`](Self::changed) wake also when a batch was opened, and when everything started
    /// has begun.
    pub(crate) fn watch(&self) {
        self.starts.watch();
        self.changed.notify_one();
    }

    /// Lets nothing begin any more that still waits for a batch or a handler's permit.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stopped.cancelled()
    }
}

/// A running delivery that may kill its worker.
#[derive(Debug)]
pub(crate) struct Suspect(Arc<Admission>);

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.quarantine.leave();
    }
}

/// A parked delivery.
#[derive(Debug)]
pub(crate) struct Parked {
    admission: Arc<Admission>,
    is_limited: bool,
    is_counted: bool,
}

impl Drop for Parked {
    fn drop(&mut self) {
        if self.is_counted {
            self.admission.parked.remove(self.is_limited);
        }
    }
}

/// A place on its way to a parked delivery. If it is dropped on the way, the delivery counts as
/// parked again, and its own guard ends that.
#[derive(Debug)]
struct GrantedPlace {
    admission: Option<Arc<Admission>>,
    suspect: Option<Suspect>,
}

impl Drop for GrantedPlace {
    fn drop(&mut self) {
        if let Some(admission) = &self.admission {
            admission.parked.add(true);
        }
    }
}

/// A delivery or a handler that was started and has not begun.
#[derive(Debug)]
pub(crate) struct StartGuard {
    admission: Arc<Admission>,
    stage: Stage,
    /// The backlog of the handler that is to be called, if it has a limit.
    backlog: Option<usize>,
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        if let Some(index) = self.backlog {
            self.admission.backlogs.remove(index);
        }
        if self.admission.starts.remove(self.stage) {
            self.admission.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use futures_util::FutureExt;
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;
    use crate::delivery::attempt::Attempt;
    use crate::delivery::lease::Lease;
    use crate::delivery::received::Received;
    use crate::dispatch::batch_member::Member;
    use crate::engine::{Delivery, Due, Outgoing};
    use crate::event::envelope::Envelope;
    use crate::message::headers::Headers;
    use crate::message::message_id::MessageId;
    use crate::message::queue_name::QueueName;
    use crate::message::settlement::HandlerMark;

    fn entry(admission: &Arc<Admission>) -> Entry {
        let stored = Outgoing {
            queue: QueueName::default(),
            body: String::new(),
            headers: Headers::new(),
            due: Due::Now,
            dedupe: None,
        };
        let received = Received::new(
            Delivery::stored(MessageId::Number(1), stored, Utc::now()),
            Envelope::builder("step", "/test").build().unwrap(),
            QueueName::default(),
            Arc::new(Lease::new(Instant::now(), Duration::MAX)),
        );
        let member = Member {
            attempt: Attempt {
                received: Arc::new(received),
                number: 1,
            },
            done: HandlerMark::done_after(None),
            is_sole: true,
        };
        let (answer, _) = oneshot::channel();
        Entry {
            member,
            answer,
            start: admission.starting(),
        }
    }

    #[test]
    fn a_batch_that_is_opened_before_a_control_event_wakes_the_coordinator() {
        let admission = Arc::new(Admission::of(4, Backlogs::default()));
        admission.watch();
        assert!(admission.changed().now_or_never().is_some());

        // A delivery is parked, and what then closes all batches comes between.
        let _parked = admission.park(false);
        assert!(admission.changed().now_or_never().is_some());
        admission.open_batches.close();
        let (batch, leads) = admission.join_batch(&"batches".into(), 10, entry(&admission));
        assert!(leads && admission.changed().now_or_never().is_some());
        admission.open_batches.close();
        assert!(batch.closed().now_or_never().is_some());
    }
}
