//! The measurements around claims, handlers, settlements and schedules, by the facade `metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::delivery::received::Received;
use crate::engine::QueueCounts;
use crate::event::EventDescriptor;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, Reason};
use crate::observe::metrics::{AttemptOutcome, names};

/// The label of an event type that the code does not name.
pub(super) const OTHER: &str = "other";

/// When something began. The machine's own clock, not tokio's: a test may stop that one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(Instant);

impl Since {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(super) fn record(self, histogram: &Histogram) {
        histogram.record(self.0.elapsed().as_secs_f64());
    }
}

/// The histograms of a step that may fail.
#[derive(Debug)]
pub(super) struct Timing {
    ok: Histogram,
    failed: Histogram,
}

impl Timing {
    pub(super) fn of(name: &'static str, queue: &str) -> Self {
        let histogram = |outcome: &'static str| histogram!(name, "queue" => queue.to_owned(), "outcome" => outcome);
        Self {
            ok: histogram("ok"),
            failed: histogram("failed"),
        }
    }

    pub(super) fn record(&self, since: Since, is_ok: bool) {
        since.record(if is_ok { &self.ok } else { &self.failed });
    }
}

/// What is measured of the claims and settlements of one consumer.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics(Arc<QueueHandles>);

#[derive(Debug)]
struct QueueHandles {
    claim: Timing,
    claimed: Counter,
    settle: Timing,
    settle_batch: Histogram,
}

impl QueueMetrics {
    pub(crate) fn of(queue: &QueueName) -> Self {
        let name = queue.as_str();
        Self(Arc::new(QueueHandles {
            claim: Timing::of(names::CLAIM, name),
            claimed: counter!(names::CLAIMED, "queue" => name.to_owned()),
            settle: Timing::of(names::SETTLE, name),
            settle_batch: histogram!(names::SETTLE_BATCH, "queue" => name.to_owned()),
        }))
    }

    /// A claim was answered, with so many events; `None` if it failed.
    pub(crate) fn claimed(&self, sent: Since, count: Option<usize>) {
        self.0.claim.record(sent, count.is_some());
        self.0.claimed.increment(count.unwrap_or_default() as u64);
    }

    /// A batch of settlements was sent.
    pub(crate) fn settled(&self, sent: Since, count: usize, is_ok: bool) {
        self.0.settle.record(sent, is_ok);
        self.0.settle_batch.record(float(count));
    }
}

/// A count as exporters take it. Counts here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(count: usize) -> f64 {
    count as f64
}

/// One counter for each way in which a delivery ends. Without a queue it counts nothing.
#[derive(Debug, Default)]
pub(crate) struct DeliveryMetrics(Vec<Counter>);

impl DeliveryMetrics {
    /// Counters with these labels.
    pub(crate) fn of(queue: &QueueName, dispositions: &[&'static str]) -> Self {
        let counters = dispositions.iter().map(|disposition| {
            let queue = queue.as_str().to_owned();
            counter!(names::DELIVERIES, "queue" => queue, "disposition" => *disposition)
        });
        Self(counters.collect())
    }

    /// Counts a delivery under the label at this place; one without a label is not counted.
    pub(crate) fn add(&self, place: usize) {
        if let Some(counter) = self.0.get(place) {
            counter.increment(1);
        }
    }
}

/// Counts one consumer among those of its state. Without a queue it counts nothing.
#[derive(Debug, Default)]
pub(crate) struct ConsumersGauge(Option<QueueName>);

impl ConsumersGauge {
    pub(crate) fn of(queue: &QueueName, state: Option<&'static str>) -> Self {
        let gauge = Self(Some(queue.clone()));
        gauge.change(None, state);
        gauge
    }

    pub(crate) fn change(&self, from: Option<&'static str>, to: Option<&'static str>) {
        let Some(queue) = &self.0 else { return };
        // A consumer is in one state at a time, so it leaves one and enters the other.
        for (state, change) in [(from, -1.0), (to, 1.0)] {
            if let Some(state) = state {
                let queue = queue.as_str().to_owned();
                gauge!(names::CONSUMERS, "queue" => queue, "state" => state).increment(change);
            }
        }
    }
}

/// What is measured of one handler, in each queue from which it takes events.
#[derive(Debug, Clone, Default)]
pub(crate) struct HandlerMetrics(Arc<OnceLock<ByQueue>>);

/// The handles for one queue, and a link to those for the next. Links are only added, so reading takes no
/// lock: most handlers have one queue, and the others few.
#[derive(Debug)]
struct ByQueue {
    queue: QueueName,
    handles: HandlerHandles,
    next: Box<OnceLock<Self>>,
}

#[derive(Debug)]
struct HandlerHandles {
    wait: Histogram,
    handling: Histogram,
    in_flight: Gauge,
    /// The counters of the attempts, by the place of the event's type among the handler's; the last ones
    /// are those of all other types.
    attempts: OnceLock<Box<[OnceLock<[Counter; 7]>]>>,
}

impl HandlerMetrics {
    /// A run begins, with one event or with a batch.
    pub(crate) fn begin<'a>(
        &self,
        handler: &HandlerName,
        events: impl IntoIterator<Item = &'a Received>,
    ) -> RunMetrics<'_> {
        let began = Since::now();
        let mut handles = None;
        for received in events {
            let handles = handles.get_or_insert_with(|| self.of(handler, &received.queue));
            handles.wait.record(waited(received, began));
        }

        // No event, no run: a batch has one at least.
        if let Some(handles) = handles {
            handles.in_flight.increment(1);
        }
        RunMetrics { handles, began }
    }

    /// An attempt at an event has ended.
    pub(crate) fn attempted(
        &self,
        handler: &HandlerName,
        types: &[EventDescriptor],
        received: &Received,
        outcome: AttemptOutcome,
    ) {
        let name = received.envelope.event_type();
        // Only types that the code names: any client may store events of any type.
        let known = types.iter().position(|event| event.matches(name));

        let attempts = &self.of(handler, &received.queue).attempts;
        let attempts = attempts.get_or_init(|| {
            let one_for_each = std::iter::repeat_with(OnceLock::new);
            one_for_each.take(types.len() + 1).collect()
        });
        // A handler's types are the same in each call.
        let Some(counters) = attempts.get(known.unwrap_or(types.len())) else {
            return;
        };
        let counters = counters.get_or_init(|| {
            let event_type = known.map_or(OTHER, |place| types[place].type_name);
            attempt_counters(handler, &received.queue, event_type)
        });
        counters[outcome as usize].increment(1);
    }

    fn of(&self, handler: &HandlerName, queue: &QueueName) -> &HandlerHandles {
        let mut link = &*self.0;
        loop {
            let here = link.get_or_init(|| ByQueue {
                queue: queue.clone(),
                handles: HandlerHandles::of(handler, queue),
                next: Box::default(),
            });
            if here.queue == *queue {
                return &here.handles;
            }
            link = &here.next;
        }
    }
}

/// For how many seconds an event has been due. Both its times are the engine's, and what has passed
/// since is measured here: clocks of two machines are not compared.
///
/// Whole microseconds, since sums of calendar times would take half of all that measuring takes.
#[expect(
    clippy::cast_precision_loss,
    reason = "centuries in microseconds are below 2^52"
)]
fn waited(received: &Received, now: Since) -> f64 {
    let clock = received.clock;
    let before = clock.at.timestamp_micros() - received.due.timestamp_micros();
    let since = now.0.saturating_duration_since(clock.read.into_std());
    (before as f64 / 1e6 + since.as_secs_f64()).max(0.0)
}

impl HandlerHandles {
    fn of(handler: &HandlerName, queue: &QueueName) -> Self {
        let labels = [
            ("queue", queue.as_str().to_owned()),
            ("handler", handler.as_str().to_owned()),
        ];
        Self {
            wait: histogram!(names::WAIT, &labels),
            handling: histogram!(names::HANDLING, &labels),
            in_flight: gauge!(names::IN_FLIGHT, &labels),
            attempts: OnceLock::new(),
        }
    }
}

/// One counter for each [`AttemptOutcome`], in the order of their discriminants.
fn attempt_counters(
    handler: &HandlerName,
    queue: &QueueName,
    event_type: &'static str,
) -> [Counter; 7] {
    let outcomes = [
        "done",
        "retried",
        "snoozed",
        "discarded",
        "dead",
        "cancelled",
        "store_failed",
    ];
    outcomes.map(|outcome| {
        counter!(
            names::ATTEMPTS,
            "queue" => queue.as_str().to_owned(),
            "handler" => handler.as_str().to_owned(),
            "event_type" => event_type,
            "outcome" => outcome,
        )
    })
}

/// A run of a handler. However it ends, it is in flight no more.
pub(crate) struct RunMetrics<'a> {
    handles: Option<&'a HandlerHandles>,
    began: Since,
}

impl RunMetrics<'_> {
    /// The handler has ended.
    pub(crate) fn end(self) {}
}

impl Drop for RunMetrics<'_> {
    fn drop(&mut self) {
        if let Some(handles) = self.handles {
            handles.in_flight.decrement(1);
            self.began.record(&handles.handling);
        }
    }
}

/// An event became a dead letter.
pub(crate) fn dead_lettered(queue: &QueueName, reason: &Reason) {
    // The store and operators give events up as well.
    let handler = reason.handler.as_ref().map_or("", HandlerName::as_str);
    counter!(
        names::DEAD_LETTERS,
        "queue" => queue.as_str().to_owned(),
        "handler" => handler.to_owned(),
        "reason" => reason.kind.to_string(),
    )
    .increment(1);
}

/// What is sampled of the queues of a store.
#[derive(Debug)]
pub(crate) struct SampledGauges {
    sampler: Gauge,
    snapshot: Gauge,
    /// Those that were set, by queue.
    queues: BTreeMap<QueueName, QueueGauges>,
}

#[derive(Debug)]
struct QueueGauges {
    /// In the order of [`QUEUE_STATES`].
    events: [Gauge; 5],
    oldest: Gauge,
}

/// The states by which events are counted.
const QUEUE_STATES: [&str; 5] = ["ready", "leased", "retrying", "scheduled", "dead"];

impl SampledGauges {
    /// Gauges of a process that does not sample yet; `None` for a build that measures nothing.
    pub(crate) fn new() -> Option<Self> {
        let gauges = Self {
            sampler: gauge!(names::SAMPLER),
            snapshot: gauge!(names::SNAPSHOT),
            queues: BTreeMap::new(),
        };
        gauges.sampler.set(0.0);
        Some(gauges)
    }

    /// This process samples, and found this. The gauges of queues that could not be read stay as they are.
    pub(crate) fn set(
        &mut self,
        counted: &[(QueueName, QueueCounts)],
        unread: &BTreeSet<QueueName>,
        snapshot: Option<Duration>,
    ) {
        self.sampler.set(1.0);
        self.snapshot
            .set(snapshot.unwrap_or_default().as_secs_f64());

        // Of a queue that was dropped nothing may stay behind.
        for (queue, gauges) in &self.queues {
            if !unread.contains(queue) && !counted.iter().any(|(name, _)| name == queue) {
                gauges.clear();
            }
        }
        for (queue, counts) in counted {
            let gauges = self
                .queues
                .entry(queue.clone())
                .or_insert_with(|| QueueGauges::of(queue));
            gauges.set(counts);
        }
    }

    /// This process does not sample any more. The sum over all processes is then that of the next.
    pub(crate) fn clear(&self) {
        self.sampler.set(0.0);
        self.snapshot.set(0.0);
        self.queues.values().for_each(QueueGauges::clear);
    }
}

impl Drop for SampledGauges {
    fn drop(&mut self) {
        self.clear();
    }
}

impl QueueGauges {
    fn of(queue: &QueueName) -> Self {
        let name = queue.as_str();
        Self {
            events: QUEUE_STATES.map(
                |state| gauge!(names::QUEUE_EVENTS, "queue" => name.to_owned(), "state" => state),
            ),
            oldest: gauge!(names::QUEUE_OLDEST, "queue" => name.to_owned()),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts are capped far below 2^52"
    )]
    fn set(&self, counts: &QueueCounts) {
        let all = [
            counts.ready,
            counts.leased,
            counts.retrying,
            counts.scheduled,
            counts.dead,
        ];
        for (gauge, count) in self.events.iter().zip(all) {
            gauge.set(count.value as f64);
        }
        self.oldest
            .set(counts.oldest_ready.unwrap_or_default().as_secs_f64());
    }

    fn clear(&self) {
        self.events.iter().for_each(|gauge| gauge.set(0.0));
        self.oldest.set(0.0);
    }
}

/// A tick of a schedule was due, and fired or was left out.
pub(crate) fn ticked(schedule: &str, due: DateTime<Utc>, now: DateTime<Utc>, has_fired: bool) {
    let outcome = if has_fired { "fired" } else { "left_out" };
    counter!(names::SCHEDULE_TICKS, "schedule" => schedule.to_owned(), "outcome" => outcome)
        .increment(1);
    // A tick that is left out comes at no time.
    if has_fired {
        let lag = (now - due).to_std().unwrap_or_default();
        histogram!(names::SCHEDULE_LAG, "schedule" => schedule.to_owned())
            .record(lag.as_secs_f64());
    }
}
