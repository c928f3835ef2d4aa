//! Beginning what was taken in, as far as the concurrency allows.

pub(crate) mod lanes;
pub(crate) mod task;

use std::sync::{Arc, Mutex};

use tracing::Instrument;

use crate::consumer::run::{Item, Run};
use crate::consumer::workload::lanes::Stepped;
use crate::consumer::workload::task::handle;
use crate::dispatch::in_place::{self, Begun};
use crate::engine::Settle;
use crate::logging::error;
use crate::observe::report::Tally;

/// How many deliveries are started before the coordinator looks at what else there is.
const AT_ONCE: usize = 64;

impl Run {
    /// Whether the concurrency allows another delivery to begin. Those that wait for a batch do not
    /// count, but are bounded as well.
    fn may_start(&self) -> bool {
        let most = self.settings.concurrency.saturating_add(self.batch_room);
        self.has_place() && self.at_work() < most
    }

    fn has_place(&self) -> bool {
        self.tasks.len().saturating_sub(self.slots.parked()) < self.settings.concurrency
    }

    /// How many deliveries were begun, but for those that wait for their handlers' limits.
    pub(crate) fn at_work(&self) -> usize {
        self.tasks.len().saturating_sub(self.slots.aside())
    }

    /// Lets what has its handler's permit go on, before anything new.
    fn grant_places(&self) {
        if self.slots.limited.is_empty() {
            return;
        }
        while self.has_place() && self.slots.grant() {}
    }

    /// What is to begin next. Of those that may kill their worker one runs at a time, picked at
    /// random, so that the ones before it are done and it does not take them all along, again and
    /// again.
    fn next_item(&mut self) -> Option<Item> {
        let threshold = (self.app.config.max_deliveries / 5).max(2);
        let is_suspect = |item: &Item| item.work.received.unsettled_deliveries() >= threshold;
        if !self.buffer.front().is_some_and(is_suspect) {
            return self.buffer.pop_front();
        }
        if self.slots.has_suspect() {
            let other = self.buffer.iter().position(|item| !is_suspect(item))?;
            return self.buffer.remove(other);
        }
        let suspects = self
            .buffer
            .iter()
            .enumerate()
            .filter(|(_, item)| is_suspect(item));
        let suspects: Vec<usize> = suspects.map(|(index, _)| index).collect();
        let picked = suspects.get(rand::random_range(0..suspects.len()))?;
        let mut item = self.buffer.remove(*picked)?;
        item.work.suspect = Mutex::new(Some(self.slots.suspect()));
        Some(item)
    }

    /// Starts what waits, as far as the concurrency allows; whether to go on soon.
    pub(crate) fn start_tasks(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            // What was started here may have made room for the next of its key.
            while let Some(step) = self.lanes.step_taken() {
                let stepped = self.lanes.follow(step);
                self.go_on(stepped);
            }
            self.grant_places();
            if !self.may_start() {
                return false;
            }
            let Some(item) = self.next_item() else {
                return false;
            };
            if !self.leases.holds(&item.receipt) {
                self.counters.add(Tally::Lost);
                continue;
            }
            if item.work.received.lease.is_expired() {
                // Another worker may have it by now; if not, it comes again with a whole lease.
                self.send(item.receipt, Settle::Release, Tally::Returned);
                continue;
            }
            let handled = handle(
                Arc::clone(&self.app),
                Arc::clone(&self.leases),
                Arc::clone(&self.settler),
                Arc::clone(&self.counters),
                item,
                self.slots.started(),
            );
            match in_place::begin(Box::pin(handled)) {
                Begun::Done => {}
                Begun::Panicked => self.panicked(),
                Begun::Waits(running) => {
                    self.tasks.spawn(running.in_current_span());
                }
            }
        }
        !self.buffer.is_empty()
    }

    pub(crate) fn panicked(&self) {
        error!(queue = %self.settings.queue, "handling a delivery panicked: it comes again");
    }

    /// Gives back what was fetched ahead and waits for too long.
    pub(crate) fn give_back(&mut self) {
        self.window.shrink();
        for item in self
            .buffer
            .split_off(self.window.least().min(self.buffer.len()))
        {
            self.send(item.receipt, Settle::Release, Tally::Returned);
        }
    }

    /// Goes on in a lane, or gives back what is left of it.
    pub(crate) fn go_on(&mut self, stepped: Stepped) {
        match stepped {
            Stepped::Nothing => {}
            Stepped::Starts(item) => self.buffer.push_front(item),
            Stepped::Ended { current, rest } => {
                self.leases.cancel(&current);
                for item in rest {
                    self.send(item.receipt, Settle::Release, Tally::Returned);
                }
            }
        }
    }
}
