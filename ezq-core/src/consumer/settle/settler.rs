//! The settling task: it tries each batch until the store has settled it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info};

use crate::clock::later;
use crate::consumer::settle::batch::{BatchSettler, Remainder};
use crate::consumer::settle::outbox::Batches;
use crate::consumer::settle::settlement::PendingSettlement;
use crate::engine::Receipt;
use crate::error::{Error, ErrorKind};
use crate::logging::warn;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Settles what the handlers hand in.
pub(crate) struct Settler {
    pub(crate) batches: BatchSettler,
    /// How long to go on trying once the consumer has stopped.
    pub(crate) patience: Duration,
}

impl Settler {
    /// Settles what comes until the outbox is gone.
    pub(crate) async fn run(self, mut outbox: Batches) {
        let settler = Arc::new(self);
        let closing = CancellationToken::new();
        let mut later = JoinSet::new();
        let mut give_up = None;

        while let Some(batch) = outbox.next().await {
            let left = settler.settle(batch, &outbox, &mut give_up).await;
            if !left.is_empty() {
                let settled = Arc::clone(&settler).settle_later(left, closing.clone());
                later.spawn(settled.in_current_span());
            }
            // A set keeps what ended until it is asked.
            while later.try_join_next().is_some() {}
        }

        closing.cancel();
        while later.join_next().await.is_some() {}
    }

    /// Settles a batch, and tries again while the store fails. Returns what failed by itself and
    /// must not hold up others.
    ///
    /// Once the consumer has stopped, `give_up` is set: it ends the tries for this batch and those
    /// behind it.
    async fn settle(
        &self,
        mut batch: Vec<PendingSettlement>,
        outbox: &Batches,
        give_up: &mut Option<Instant>,
    ) -> Vec<PendingSettlement> {
        if give_up.is_some_and(|give_up| Instant::now() >= give_up) {
            self.batches.abandon(batch);
            return Vec::new();
        }

        let receipts = batch.iter().map(PendingSettlement::receipt);
        self.batches.leases.note_in_flight(receipts);

        let mut pause = FIRST_PAUSE;
        let mut outage = Outage::default();
        loop {
            match self.batches.attempt(batch).await {
                Some(left) if left.is_down => {
                    outage.log(self, &left);
                    batch = left.batch;
                }
                left => {
                    outage.end(self);
                    *give_up = None;
                    return self.set_aside(left);
                }
            }

            let now = Instant::now();
            if outbox.is_closed() && now >= *give_up.get_or_insert(later(now, self.patience)) {
                let count = batch.len();
                let queue = &self.batches.queue;
                warn!(%queue, count, "gave up settling: these events will be delivered again");
                self.batches.abandon(batch);
                return Vec::new();
            }

            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn set_aside(&self, left: Option<Remainder>) -> Vec<PendingSettlement> {
        let Some(left) = left else { return Vec::new() };
        if let Some(error) = left.why() {
            let count = left.batch.len();
            let queue = &self.batches.queue;
            warn!(%queue, count, error, "some events cannot be settled yet");
        }
        left.batch
    }

    /// Settles what failed by itself, until it works or, once the consumer has stopped, until it is
    /// time to give up.
    async fn settle_later(
        self: Arc<Self>,
        mut batch: Vec<PendingSettlement>,
        closing: CancellationToken,
    ) {
        let queue = &self.batches.queue;
        let _abandoned = AbandonOnDrop {
            batches: &self.batches,
            receipts: batch.iter().map(|one| one.receipt().clone()).collect(),
        };

        let mut pause = FIRST_PAUSE;
        let mut give_up = None;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);

            let Some(left) = self.batches.attempt(batch).await else {
                self.batches.note_late(Ok(()));
                return debug!(%queue, "the events that could not be settled are settled now");
            };
            // A lock that another session holds is no failure of the store.
            let lasting = left.error.as_ref().filter(|error| !error.is_transient());
            self.batches.note_late(lasting.map_or(Ok(()), Err));

            let count = left.batch.len();
            let error = left.why();
            debug!(%queue, count, error, "some events cannot be settled yet");
            batch = left.batch;

            let now = Instant::now();
            if closing.is_cancelled() && now >= *give_up.get_or_insert(later(now, self.patience)) {
                warn!(
                    %queue, count, error,
                    "gave up settling: these events will be delivered again"
                );
                return self.batches.abandon(batch);
            }
        }
    }
}

/// What was logged of one outage of the store.
#[derive(Default)]
struct Outage {
    kinds: Vec<Option<ErrorKind>>,
}

impl Outage {
    /// An outage lasts for many tries: each kind of error is a warning once.
    fn log(&mut self, settler: &Settler, left: &Remainder) {
        let queue = &settler.batches.queue;
        let kind = left.error.as_ref().map(Error::kind);
        if self.kinds.contains(&kind) {
            debug!(%queue, error = left.why(), "settling still fails");
        } else {
            self.kinds.push(kind);
            warn!(%queue, error = left.why(), "settling failed, will try again");
        }
    }

    fn end(&self, settler: &Settler) {
        settler.batches.note(Ok(()));
        if !self.kinds.is_empty() {
            info!(queue = %settler.batches.queue, "settling works again");
        }
    }
}

/// Lets deliveries go whose settlement is tried beside the batches, however that ends.
struct AbandonOnDrop<'a> {
    batches: &'a BatchSettler,
    receipts: Vec<Receipt>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        for receipt in &self.receipts {
            self.batches.abandon_if_held(receipt);
        }
    }
}
