//! The batches of a relay's consumer, from the claim that brings them until they begin.
//!
//! One claim is one batch. One that is not full gathers for a while what the next claims bring. A few
//! batches are held at once, so the next is claimed and read while others are sent.
//!
//! Everything else takes the way of any other event, with a task and a lane of its own:
//!
//! - an event that may have killed its worker, or that its relay has failed on;
//! - an event that has the key of such a one, from the same claim;
//! - an event with a key, if the sink or the engine keeps no order.
//!
//! Invariant: no two batches hold events of one key. An engine hands out none of a key while one of it is
//! leased, and what one claim brings is never divided.
//!
//! Fast path. Benchmark case: `relay`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::clock::later;
use crate::consumer::scope::RunScope;
use crate::dispatch::together::RelayLimits;
use crate::dispatch::work::Work;
use crate::engine::Delivery;
use crate::message::headers::Headers;
use crate::message::settlement::Progress;

/// After a claim whose bodies have more bytes than this, one batch is held at a time.
const MOST_BYTES: usize = 8 << 20;

/// The batches that a consumer gathers.
pub(crate) struct RelayBatches {
    /// Without limits in it there are no batches here.
    scope: Arc<RunScope>,
    /// In the order of their claims. The last may gather.
    waiting: VecDeque<RelayBatch>,
    /// Shared with each batch that runs.
    running: Arc<()>,
    /// The newest claim brought so many bytes that several batches would take too much memory.
    is_heavy: bool,
    /// The keys whose events take another way in the answer that is taken in.
    apart: HashSet<String>,
}

struct RelayBatch {
    works: Vec<Work>,
    /// When it begins at the latest.
    due: Instant,
    /// Nothing joins it any more.
    is_closed: bool,
}

/// Counts a batch as running until it is dropped.
pub(crate) struct RunningBatch(#[expect(dead_code, reason = "its references are counted")] Arc<()>);

impl RelayBatches {
    pub(crate) fn new(scope: Arc<RunScope>) -> Self {
        Self {
            scope,
            waiting: VecDeque::new(),
            running: Arc::new(()),
            is_heavy: false,
            apart: HashSet::new(),
        }
    }

    /// Prepares for the deliveries of one claim.
    pub(crate) fn begin_answer(&mut self, deliveries: &[Delivery]) {
        let Some(limits) = &self.scope.relay else {
            return;
        };
        let unusual = deliveries.iter().filter(|delivery| {
            let unsettled = delivery.unsettled_deliveries();
            !is_usual(limits, &delivery.headers, unsettled, delivery.leased_at)
        });
        let keys = unusual.filter_map(|delivery| delivery.headers.key());
        self.apart = keys.map(|key| key.into_owned()).collect();

        let bytes: usize = deliveries.iter().map(|delivery| delivery.body.len()).sum();
        self.is_heavy = bytes > MOST_BYTES;

        // All of them join the batch that gathers, or none does.
        let size = limits.size;
        if let Some(batch) = self.waiting.back_mut() {
            batch.is_closed |= batch.works.len() + deliveries.len() > size;
        }
    }

    /// Closes the batch that gathers if it holds several events of a key: more of that key is likely to
    /// wait behind them, and cannot join.
    pub(crate) fn end_answer(&mut self) {
        if let Some(batch) = self.waiting.back_mut() {
            let headers = batch.works.iter().map(|work| &work.received.headers);
            let mut seen = HashSet::new();
            let mut keys = headers.filter_map(|headers| headers.key());
            batch.is_closed |= keys.any(|key| !seen.insert(key));
        }
    }

    /// Whether a delivery goes into a batch.
    pub(crate) fn takes(&self, work: &Work, key: Option<&str>) -> bool {
        let Some(limits) = &self.scope.relay else {
            return false;
        };
        let received = &work.received;
        let unsettled = received.unsettled_deliveries();
        key.is_none_or(|key| limits.shares_keys && !self.apart.contains(key))
            && is_usual(limits, &received.headers, unsettled, received.clock.at)
    }

    /// Puts a delivery into the batch that gathers, or else into a new one.
    pub(crate) fn add(&mut self, work: Work) {
        let Some(limits) = &self.scope.relay else {
            return;
        };
        if let Some(batch) = self.waiting.back_mut().filter(|batch| !batch.is_closed) {
            return batch.works.push(work);
        }
        self.waiting.push_back(RelayBatch {
            works: vec![work],
            due: later(Instant::now(), limits.wait),
            is_closed: false,
        });
    }

    /// How much a claim may bring, while so many deliveries are to be taken in and so many others are held
    /// that are in no batch. `None` if there are no batches.
    pub(crate) fn room(&self, incoming: usize, others: usize) -> Option<usize> {
        let limits = self.scope.relay.as_ref()?;
        let gathering = self.waiting.back().filter(|batch| !batch.is_closed);
        if let (Some(batch), 0) = (gathering, incoming + others) {
            return Some(limits.size.saturating_sub(batch.works.len()));
        }

        let held = self.running() + self.waiting.len();
        let others = others.div_ceil(limits.size) + usize::from(incoming > 0);
        Some(match held + others < self.most(limits) {
            true => limits.size,
            false => 0,
        })
    }

    /// Takes out the next batch, if one may begin now.
    pub(crate) fn next(&mut self) -> Option<(Vec<Work>, RunningBatch)> {
        let limits = self.scope.relay.as_ref()?;
        let batch = self.waiting.front()?;
        let is_ready =
            batch.is_closed || batch.works.len() >= limits.size || batch.due <= Instant::now();
        if !is_ready || self.running() >= self.most(limits) {
            return None;
        }
        let running = RunningBatch(Arc::clone(&self.running));
        let batch = self.waiting.pop_front()?;
        Some((batch.works, running))
    }

    /// When the next batch begins though it is not full. `None` if it waits for another to end.
    pub(crate) fn due(&self) -> Option<Instant> {
        let limits = self.scope.relay.as_ref()?;
        let batch = self.waiting.front()?;
        (self.running() < self.most(limits)).then_some(batch.due)
    }

    fn most(&self, limits: &RelayLimits) -> usize {
        if self.is_heavy { 1 } else { limits.at_once }
    }

    /// Lets nothing join the batch that gathers.
    pub(crate) fn close(&mut self) {
        if let Some(batch) = self.waiting.back_mut() {
            batch.is_closed = true;
        }
    }

    /// How many batches run.
    pub(crate) fn running(&self) -> usize {
        Arc::strong_count(&self.running) - 1
    }

    /// How many deliveries wait in batches.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|batch| batch.works.len()).sum()
    }

    /// Hands out what waits and is meant.
    pub(crate) fn remove(&mut self, is_meant: impl Fn(&Work) -> bool) -> Vec<Work> {
        let mut removed = Vec::new();
        for batch in &mut self.waiting {
            removed.extend(batch.works.extract_if(.., |work| is_meant(work)));
        }
        self.waiting.retain(|batch| !batch.works.is_empty());
        removed
    }
}

/// Whether a message can harm no other: it did not kill its worker, and its relay has not failed on it.
fn is_usual(limits: &RelayLimits, headers: &Headers, unsettled: u32, at: DateTime<Utc>) -> bool {
    if unsettled > 1 {
        return false;
    }
    // A mark without an attempt is that of an event that was put off.
    let progress = Progress::from_headers(headers);
    let mark = progress.0.get(&limits.relay);
    mark.is_none_or(|mark| mark.attempts == 0 && mark.is_due(at))
}
