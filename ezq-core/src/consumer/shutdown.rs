//! Stopping: by a control event, which keeps its place in the queue, or from outside.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::info;

use super::report::{StopReason, Tally};
use super::run::{Item, Phase, Run};
use crate::dispatcher::Work;
use crate::error_chain;
use crate::event::{Control, End};
use crate::logging::warn;
use crate::settlement::{Progress, Settle};

/// How long an `End` for all consumers stays for those that were too busy to meet it, and how long
/// one that began later leaves it to them before it looks again.
const KEPT_FOR_ALL: TimeDelta = TimeDelta::minutes(10);
const LEFT_TO_OTHERS: Duration = Duration::from_secs(1);

impl Run {
    /// Meets a control event; the earliest one counts.
    pub(super) fn meet(&mut self, item: Item, control: Control) {
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
        match control {
            Control::End(End { timeout, .. }) => {
                self.reason = StopReason::End;
                self.phase = Phase::Draining;
                self.drained = !self.settings.engine.capabilities().ordered;
                self.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                self.control = Some((item, control));
            }
            Control::Interrupt => {
                self.reason = StopReason::Interrupt;
                self.control = Some((item, control));
                self.cancel();
            }
        }
    }

    /// Learns from an answer when this consumer began; the quickest answer tells best.
    pub(super) fn learn_beginning(&mut self, leased_at: DateTime<Utc>, sent: Instant) {
        let Ok(since) = TimeDelta::from_std(sent.duration_since(self.started)) else { return };
        let began = leased_at - since;
        self.began = Some(self.began.map_or(began, |earlier| earlier.min(began)));
    }

    /// Whether this consumer began only after a message was stored.
    fn began_after(&self, work: &Work) -> bool {
        self.began.is_some_and(|began| began > work.received.enqueued_at)
    }

    /// Lets what runs finish; the rest goes back at once.
    pub(super) fn finish(&mut self, reason: StopReason) {
        let grace = self.settings.grace.and_then(|grace| Instant::now().checked_add(grace));
        self.deadline = self.deadline.into_iter().chain(grace).min();
        let begun = self.buffer.is_empty() && self.lanes.waiting() == 0;
        if self.phase == Phase::Draining && self.drained && begun {
            // The `End` has done its work; only the time for what still runs may be shorter.
            self.phase = Phase::Finishing;
            return;
        }
        self.reason = reason;
        self.phase = Phase::Finishing;
        if let Some((item, control)) = self.control.take()
            && !is_for_all(&control)
        {
            // What stands before the `End` is left to another consumer, and so is the `End`.
            self.send(item.receipt, Settle::Release, Tally::Control);
        }
        self.return_buffer();
    }

    /// Cancels what runs; the rest goes back.
    pub(super) fn cancel(&mut self) {
        self.phase = Phase::Cancelling;
        self.direct.cancel().cancel();
        self.leases.cancel_all(self.control.as_ref().map(|(item, _)| &item.receipt));
        self.return_buffer();
    }

    pub(super) fn return_buffer(&mut self) {
        let waiting = self.lanes.clear();
        for item in std::mem::take(&mut self.buffer).into_iter().chain(waiting) {
            self.send(item.receipt, Settle::Release, Tally::Returned);
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_finished(&self) -> bool {
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
    pub(super) async fn settle_control(&mut self) {
        let Some((item, control)) = self.control.take() else { return };
        let outgoing = self.app.dispatcher.control(&item.work).await;
        if is_for_all(&control) {
            // It was given back when it was met.
            if let Err(error) = self.app.services.engines.publish(outgoing).await {
                warn!(error = %error_chain(&error), "events of a handler of End are not published");
            }
            return;
        }
        self.send(item.receipt, Settle::Ack { outgoing }, Tally::Control);
    }
}

fn is_for_all(control: &Control) -> bool {
    matches!(control, Control::End(End { all: true, .. }))
}

/// What a consumer that began after an `End` for all does with it.
fn left_to_others(work: &Work) -> Settle {
    if work.clock.at - work.received.enqueued_at > KEPT_FOR_ALL {
        return Settle::Ack { outgoing: Vec::new() };
    }
    let progress = Progress::default();
    Settle::Retry { after: LEFT_TO_OTHERS, progress, outgoing: Vec::new() }
}
