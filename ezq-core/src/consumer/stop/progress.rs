//! How far a stop has come: its phase, its reason and its control event.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::info;

use crate::consumer::scope::RunScope;
use crate::consumer::stop::control::{self, is_for_all, leave_to_others};
use crate::consumer::stop::listener::StopListener;
use crate::delivery::received::Received;
use crate::dispatch::work::Work;
use crate::engine::{Delivery, Position, Receipt, Settle};
use crate::event::{Control, End};
use crate::observe::report::{Disposition, StopReason};

/// How long a stopped consumer waits for the answer to a claim, and for handlers that were cancelled.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// What stands before the control event is handled; then the consumer stops.
    Draining,
    /// Nothing new starts; what runs may finish.
    Finishing,
    /// What runs is cancelled.
    Cancelling,
}

/// The control event that a consumer met, and its delivery.
struct StoppedBy {
    work: Work,
    control: Control,
}

/// The stop of one run.
pub(crate) struct Stop {
    scope: Arc<RunScope>,
    phase: Phase,
    reason: StopReason,
    /// When what still runs is cancelled: the time limit of an `End`.
    pub(crate) deadline: Option<Instant>,
    /// When claims and handlers that do not end are left behind.
    pub(crate) gives_up: Option<Instant>,
    /// The control event that stops this run. Its lease is kept until the end, unless it is for all
    /// consumers.
    control: Option<StoppedBy>,
    /// Everything before the control event was fetched.
    is_drained: bool,
    started: Instant,
    /// `started` on the engine's clock, or a little later: the engine read its clock at an unknown
    /// time after it was asked.
    started_on_engine: Option<DateTime<Utc>>,
}

impl Stop {
    pub(crate) fn new(scope: Arc<RunScope>, started: Instant) -> Self {
        Self {
            scope,
            phase: Phase::Running,
            reason: StopReason::Idle,
            deadline: None,
            gives_up: None,
            control: None,
            is_drained: false,
            started,
            started_on_engine: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn reason(&self) -> StopReason {
        self.reason
    }

    /// Whether deliveries may still be fetched.
    pub(crate) fn allows_fetching(&self) -> bool {
        match self.phase {
            Phase::Running => true,
            Phase::Draining => !self.is_drained,
            Phase::Finishing | Phase::Cancelling => false,
        }
    }

    /// Whether nothing more can come; what runs may still have to end.
    pub(crate) fn is_fetched(&self) -> bool {
        self.phase != Phase::Running && !self.allows_fetching()
    }

    /// Whether a request from outside would still change what is fetched.
    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Draining)
    }

    /// Whether a delivery goes back unhandled.
    pub(crate) fn refuses(&self, delivery: &Delivery) -> bool {
        !self.is_open()
            || self
                .position()
                .is_some_and(|control| delivery.position() > control)
    }

    /// The place of the control event that stops this run.
    pub(crate) fn position(&self) -> Option<Position> {
        let met = self.control.as_ref()?;
        Some(met.work.received.position())
    }

    /// The receipt of the control event that stops this run.
    pub(crate) fn receipt(&self) -> Option<&Receipt> {
        let met = self.control.as_ref()?;
        Some(&met.work.received.receipt)
    }

    pub(crate) fn is_interrupt(&self) -> bool {
        let met = self.control.as_ref();
        met.is_some_and(|met| matches!(met.control, Control::Interrupt))
    }

    fn is_end(&self) -> bool {
        let met = self.control.as_ref();
        met.is_some_and(|met| matches!(met.control, Control::End(_)))
    }

    /// Meets a control event. False if it does not stop this consumer.
    ///
    /// Of two the earlier counts: a later one is refused by its position before it comes here.
    pub(crate) fn meet(&mut self, work: Work, control: Control) -> bool {
        let for_all = is_for_all(&control);
        if for_all && self.started_after(&work.received) {
            let settle = leave_to_others(&work.received);
            let receipt = work.received.receipt.clone();
            self.scope
                .settle_unhandled(receipt, settle, Disposition::Control);
            return false;
        }

        info!(queue = %self.scope.settings.queue, "{control} received");
        if for_all {
            // The other consumers are to meet it while this one drains.
            self.release_control(&work.received);
        }
        self.drop_control();

        let (reason, timeout) = match control {
            Control::End(End { timeout, .. }) => (StopReason::End, timeout),
            Control::Interrupt => (StopReason::Interrupt, None),
        };
        self.reason = reason;
        self.phase = Phase::Draining;
        self.is_drained = !self.scope.settings.engine.capabilities().ordered;
        self.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.control = Some(StoppedBy { work, control });
        true
    }

    /// Notes that nothing is left in the queue before the control event.
    pub(crate) fn drained(&mut self) {
        self.is_drained = true;
    }

    /// Ends the run because the queue is empty.
    pub(crate) fn finish_idle(&mut self) {
        self.phase = Phase::Finishing;
    }

    /// Lets what runs finish.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Finishing;
        self.gives_up = Some(Instant::now() + PATIENCE);
    }

    /// Cancels what runs.
    pub(crate) fn cancel(&mut self) {
        self.phase = Phase::Cancelling;
        self.gives_up = Some(Instant::now() + PATIENCE);
    }

    /// Notes a request from outside; false if the stop has come further already.
    ///
    /// The control event, and what stands before it, is left to another consumer. An `End` that has
    /// done its work is kept: then the request only shortens the time for what still runs.
    pub(crate) fn request(&mut self, reason: StopReason, has_started_all: bool) -> bool {
        if !self.is_open() {
            return false;
        }

        // What waits for its handler's limit or its batch goes back, and must come before the `End`.
        let has_begun = has_started_all && self.scope.admission.have_begun();
        if !(self.is_drained && has_begun && self.is_end()) {
            self.reason = reason;
            self.deadline = None;
            self.drop_control();
        }
        true
    }

    /// Gives the control event back, unless it is for all: then it was released when it was met.
    fn drop_control(&mut self) {
        if let Some(met) = self.control.take()
            && !is_for_all(&met.control)
        {
            self.release_control(&met.work.received);
        }
    }

    fn release_control(&self, received: &Received) {
        let receipt = received.receipt.clone();
        self.scope
            .settle_unhandled(receipt, Settle::Release, Disposition::Control);
    }

    /// Learns from a delivery when this consumer started by the engine's clock. The quickest answer
    /// tells best.
    pub(crate) fn learn_start(&mut self, leased_at: DateTime<Utc>, sent: Instant) {
        let Ok(since) = TimeDelta::from_std(sent.duration_since(self.started)) else {
            return;
        };
        let started = leased_at - since;
        let earliest = self
            .started_on_engine
            .map_or(started, |earlier| earlier.min(started));
        self.started_on_engine = Some(earliest);
    }

    /// Whether this consumer started only after a message was stored.
    fn started_after(&self, received: &Received) -> bool {
        self.started_on_engine
            .is_some_and(|started| started > received.enqueued_at)
    }

    /// Runs the handlers of the control event, if there is one, and settles it.
    pub(crate) async fn settle_control(&mut self, stops: &mut StopListener) {
        if let Some(StoppedBy { work, control }) = self.control.take() {
            control::finish(&self.scope, work, control, stops).await;
        }
    }
}
