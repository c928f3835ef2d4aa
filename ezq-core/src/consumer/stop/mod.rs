//! Stopping: by a control event, which keeps its place in the queue, or from outside.

pub(crate) mod listener;
pub(crate) mod signals;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, info};

use crate::consumer::deadline::at;
use crate::consumer::run::{Item, Phase, Run};
use crate::consumer::stop::listener::{Asked, Listener};
use crate::dispatch::dispatcher::Work;
use crate::engine::Settle;
use crate::error::error_chain;
use crate::event::{Control, End};
use crate::logging::{error, warn};
use crate::message::settlement::Progress;
use crate::observe::report::{StopReason, Tally};
use crate::shared::Shared;

/// How long an `End` for all consumers stays for those that were too busy to meet it, and how long
/// one that began later leaves it to them before it looks again.
const KEPT_FOR_ALL: TimeDelta = TimeDelta::minutes(10);
const LEFT_TO_OTHERS: Duration = Duration::from_secs(1);

/// How long a stopped consumer waits for the answer to a claim, and for handlers that were cancelled.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

impl Run {
    /// Meets a control event; the earliest one counts.
    pub(crate) fn meet(&mut self, item: Item, control: Control) {
        let for_all = is_for_all(&control);
        if for_all && self.began_after(&item.work) {
            let settle = left_to_others(&item.work);
            return self.send(item.receipt, settle, Tally::Control);
        }
        info!(queue = %self.settings.queue, "{control} received");
        if for_all {
            // The others are to meet it while this one drains.
            self.send(item.receipt.clone(), Settle::Release, Tally::Control);
        }
        if let Some((later, control)) = self.control.take()
            && !is_for_all(&control)
        {
            self.send(later.receipt, Settle::Release, Tally::Control);
        }
        let (after, before) = std::mem::take(&mut self.buffer)
            .into_iter()
            .partition::<Vec<_>, _>(|other| other.position > item.position);
        self.buffer = before.into();
        let waiting = self.lanes.cut(&item.position);
        for other in after.into_iter().chain(waiting) {
            self.send(other.receipt, Settle::Release, Tally::Returned);
        }
        let (reason, timeout) = match control {
            Control::End(End { timeout, .. }) => (StopReason::End, timeout),
            Control::Interrupt => (StopReason::Interrupt, None),
        };
        self.reason = reason;
        self.phase = Phase::Draining;
        self.drained = !self.settings.engine.capabilities().ordered;
        self.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.control = Some((item, control));
        self.slots.watch();
    }

    /// Goes on with what precedes a control event once all of it is fetched: what gathers for a batch
    /// begins, since nothing can join it, and once everything has begun an `Interrupt` has its turn.
    pub(crate) fn drain_on(&mut self) {
        let is_begun = self.phase == Phase::Draining && self.drained && self.buffer.is_empty();
        if !is_begun || !self.slots.are_polled() {
            return;
        }
        self.slots.gatherings.close();
        let is_interrupt = matches!(self.control, Some((_, Control::Interrupt)));
        if is_interrupt && self.lanes.waiting() == 0 && self.slots.have_begun() {
            self.cancel();
        }
    }

    /// Learns from an answer when this consumer began; the quickest answer tells best.
    pub(crate) fn learn_beginning(&mut self, leased_at: DateTime<Utc>, sent: Instant) {
        let Ok(since) = TimeDelta::from_std(sent.duration_since(self.started)) else {
            return;
        };
        let began = leased_at - since;
        self.began = Some(self.began.map_or(began, |earlier| earlier.min(began)));
    }

    /// Whether this consumer began only after a message was stored.
    fn began_after(&self, work: &Work) -> bool {
        self.began
            .is_some_and(|began| began > work.received.enqueued_at)
    }

    /// Does what was asked for from outside.
    pub(crate) fn asked(&mut self, asked: Asked, stops: &Listener) {
        match asked {
            Asked::ToFinish(reason) => {
                if matches!(self.phase, Phase::Running | Phase::Draining) {
                    self.finish(reason);
                }
            }
            Asked::ToCancel(reason) => {
                if matches!(self.phase, Phase::Running | Phase::Draining) {
                    self.leave_control(reason);
                }
                self.cancel();
                self.gives_up = stops.handlers_end();
            }
        }
    }

    /// Lets what runs finish; the rest goes back at once.
    fn finish(&mut self, reason: StopReason) {
        self.leave_control(reason);
        self.phase = Phase::Finishing;
        self.slots.stop();
        self.gives_up = Some(Instant::now() + ANSWER);
        self.return_buffer();
    }

    /// Leaves a control event, and what stands before it, to another consumer, unless it has done its
    /// work: then only the time for what still runs may become shorter.
    fn leave_control(&mut self, reason: StopReason) {
        let taken_in = self.drained && self.buffer.is_empty() && self.lanes.waiting() == 0;
        // What waits for its handler's limit or for its batch goes back, and is to come before it.
        if taken_in && self.slots.have_begun() && matches!(self.control, Some((_, Control::End(_))))
        {
            return;
        }
        self.reason = reason;
        self.deadline = None;
        if let Some((item, control)) = self.control.take()
            && !is_for_all(&control)
        {
            self.send(item.receipt, Settle::Release, Tally::Control);
        }
    }

    /// Cancels what runs; the rest goes back.
    pub(crate) fn cancel(&mut self) {
        self.phase = Phase::Cancelling;
        self.slots.stop();
        self.gives_up = Some(Instant::now() + ANSWER);
        self.direct.cancel().cancel();
        self.leases
            .cancel_all(self.control.as_ref().map(|(item, _)| &item.receipt));
        self.return_buffer();
    }

    /// Waits no longer: for the answer to a claim while handlers may finish, and for nothing at all
    /// when they were cancelled. What is left behind comes again when its lease ends.
    pub(crate) fn give_up(&mut self) {
        self.gives_up = None;
        if let Some(leasing) = self.leasing.take() {
            warn!(queue = %self.settings.queue, "a claim is not answered: it is given up");
            leasing.abort();
            self.leases.took_in_all();
        }
        if self.phase == Phase::Cancelling {
            let count = self.tasks.len();
            if count > 0 {
                warn!(queue = %self.settings.queue, count, "handlers do not end: they are left behind");
            }
            self.tasks = JoinSet::new();
            self.fetch = JoinSet::new();
        }
    }

    pub(crate) fn return_buffer(&mut self) {
        let waiting = self.lanes.clear();
        for item in std::mem::take(&mut self.buffer).into_iter().chain(waiting) {
            self.send(item.receipt, Settle::Release, Tally::Returned);
        }
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn is_finished(&self) -> bool {
        let begun = self.buffer.is_empty() && self.lanes.waiting() == 0;
        begun
            && self.tasks.is_empty()
            && self.fetch.is_empty()
            && match self.phase {
                Phase::Running => false,
                Phase::Draining => self.drained,
                Phase::Finishing | Phase::Cancelling => true,
            }
    }

    /// Runs the handlers of the control event, then settles it.
    pub(crate) async fn settle_control(&mut self, stops: &mut Listener) {
        let Some((item, control)) = self.control.take() else {
            return;
        };
        let for_all = is_for_all(&control);
        let receipt = item.receipt;
        let lease = Arc::clone(&item.work.received.lease);
        // In a task: a handler that keeps its thread must not keep this from hearing a stop.
        let mut handlers = JoinSet::new();
        let handled = handle_control(Arc::clone(&self.app), item.work, control);
        handlers.spawn(handled.in_current_span());
        let settle = loop {
            if stops.ends().is_some() {
                lease.cancel().cancel();
            }
            let left = stops.handlers_end();
            tokio::select! {
                biased;
                Some(settle) = handlers.join_next() => break settle.unwrap_or_else(|_| {
                    self.panicked();
                    Settle::Release
                }),
                _ = stops.next() => {}
                () = at(left) => break Settle::Ack { outgoing: Vec::new() },
            }
        };
        if !for_all {
            self.send(receipt, settle, Tally::Control);
        }
    }
}

/// Runs the handlers of a control event; how it is to be settled.
async fn handle_control(app: Arc<Shared>, work: Work, control: Control) -> Settle {
    let queue = &work.received.queue;
    let outgoing = app.dispatcher.control(&work).await;
    let mut settle = Settle::Ack {
        outgoing: Vec::new(),
    };
    let published = if is_for_all(&control) {
        // It was given back when it was met: no settlement takes them along.
        app.services.publish_returned(outgoing).await
    } else {
        settle = Settle::Ack { outgoing };
        app.publish_elsewhere(queue, &mut settle).await
    };
    if let Err(error) = published {
        let error = error_chain(&error);
        error!(%queue, error, "events of a handler of `{control}` are not published");
    }
    settle
}

fn is_for_all(control: &Control) -> bool {
    matches!(control, Control::End(End { all: true, .. }))
}

/// What a consumer that began after an `End` for all does with it.
fn left_to_others(work: &Work) -> Settle {
    if work.clock.at - work.received.enqueued_at > KEPT_FOR_ALL {
        return Settle::Ack {
            outgoing: Vec::new(),
        };
    }
    let progress = Progress::default();
    Settle::Retry {
        after: LEFT_TO_OTHERS,
        progress,
        outgoing: Vec::new(),
    }
}
