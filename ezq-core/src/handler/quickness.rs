//! How quickly a handler ends, learnt from its runs.
//!
//! A handler that waits for nothing ends at its first poll, and a task would cost several times as
//! much as the handler does. A handler that computes or blocks its thread would keep the
//! coordinator of its consumer from everything else. So the coordinator polls a handler itself only
//! after enough of its runs in tasks were short: they ended at the first poll, within [`SHORT`]. A
//! run that was not short sends the handler back to tasks, for twice as many runs each time.
//!
//! Fast path. Benchmark case: `consume`; the figures stand in `dispatch/in_place.rs`, which asks here.
//!
//! The clock is tokio's. Where a test pauses it, every first poll is short.
//!
//! callgrind slows a process so much that a first poll may take longer than [`SHORT`]. Then it is chance
//! whether a handler counts as quick, and an event costs more if not. So `benches/dispatch.rs` pauses the
//! clock.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// About what a task costs if another thread must be woken for it.
const SHORT: Duration = Duration::from_micros(20);
/// After this many short runs in tasks a new handler counts as quick.
const FEWEST: u32 = 8;
/// A handler that was sent back to tasks counts as quick again after this many short runs at most.
const MOST: u32 = 4096;
/// After this many short runs in a row, a quick handler's earlier penalties are forgotten.
const PROVEN: u32 = 64;

/// What is known of one handler.
///
/// Runs that end at the same moment may count as one, since the counters are changed without
/// synchronisation. They are a guess in any case, and only speed depends on them.
#[derive(Debug)]
pub(crate) struct Quickness {
    /// Short runs in tasks that are left until the handler counts as quick.
    owed: AtomicU32,
    /// The value of `owed` when the handler was last sent back to tasks.
    penalty: AtomicU32,
    /// Short runs in a row since then.
    good: AtomicU32,
}

impl Default for Quickness {
    fn default() -> Self {
        Self {
            owed: AtomicU32::new(FEWEST),
            penalty: AtomicU32::new(0),
            good: AtomicU32::new(0),
        }
    }
}

impl Quickness {
    /// Whether the next run is likely to be short.
    pub(crate) fn is_quick(&self) -> bool {
        self.owed.load(Relaxed) == 0
    }

    /// Measures the first poll of a run, from now until the result is dropped.
    pub(crate) fn measure(&self) -> FirstPoll<'_> {
        FirstPoll {
            quickness: self,
            began: Instant::now(),
            is_done: false,
        }
    }

    fn learn(&self, is_short: bool) {
        let owed = self.owed.load(Relaxed);
        let penalty = self.penalty.load(Relaxed);

        if !is_short {
            self.good.store(0, Relaxed);
            // One that is not quick yet only begins anew.
            let penalty = if owed == 0 {
                penalty.saturating_mul(2).clamp(FEWEST, MOST)
            } else {
                penalty
            };
            self.penalty.store(penalty, Relaxed);
            self.owed.store(penalty.max(FEWEST), Relaxed);
        } else if owed > 0 {
            self.owed.store(owed - 1, Relaxed);
        } else if penalty > 0 {
            let good = self.good.load(Relaxed).saturating_add(1);
            self.good.store(good, Relaxed);
            if good >= PROVEN {
                self.good.store(0, Relaxed);
                self.penalty.store(0, Relaxed);
            }
        }
    }
}

/// The first poll of a run. One that panics is not short.
pub(crate) struct FirstPoll<'a> {
    quickness: &'a Quickness,
    began: Instant,
    is_done: bool,
}

impl FirstPoll<'_> {
    /// Ends the measurement. `is_done` says whether the run has ended as well.
    pub(crate) fn ends(mut self, is_done: bool) {
        self.is_done = is_done;
    }
}

impl Drop for FirstPoll<'_> {
    fn drop(&mut self) {
        self.quickness
            .learn(self.is_done && self.began.elapsed() <= SHORT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(quickness: &Quickness, is_short: bool, times: u32) {
        for _ in 0..times {
            quickness.learn(is_short);
        }
    }

    /// How many short runs it takes until it is quick again.
    fn owes(quickness: &Quickness) -> u32 {
        let mut runs = 0;
        while !quickness.is_quick() {
            quickness.learn(true);
            runs += 1;
        }
        runs
    }

    #[test]
    fn a_new_handler_has_to_prove_itself() {
        let quickness = Quickness::default();
        learn(&quickness, true, FEWEST - 1);
        assert!(!quickness.is_quick());
        quickness.learn(false);
        assert_eq!(
            owes(&quickness),
            FEWEST,
            "one that was not short begins anew"
        );
    }

    #[test]
    fn what_is_not_short_is_tried_ever_more_seldom() {
        let quickness = Quickness::default();
        owes(&quickness);
        quickness.learn(false);
        assert_eq!(owes(&quickness), FEWEST);
        quickness.learn(false);
        assert_eq!(owes(&quickness), 2 * FEWEST);
        for _ in 0..20 {
            quickness.learn(false);
            owes(&quickness);
        }
        quickness.learn(false);
        assert_eq!(owes(&quickness), MOST);
    }

    #[test]
    fn enough_short_runs_make_it_forget() {
        let quickness = Quickness::default();
        owes(&quickness);
        quickness.learn(false);
        owes(&quickness);
        quickness.learn(false);
        owes(&quickness);
        learn(&quickness, true, PROVEN);
        quickness.learn(false);
        assert_eq!(owes(&quickness), FEWEST);
    }

    #[test]
    fn one_that_waits_or_panics_or_takes_long_is_not_short() {
        let quickness = Quickness::default();
        owes(&quickness);
        quickness.measure().ends(false);
        assert!(!quickness.is_quick());

        owes(&quickness);
        drop(quickness.measure());
        assert!(!quickness.is_quick());

        owes(&quickness);
        let first = quickness.measure();
        std::thread::sleep(2 * SHORT);
        first.ends(true);
        assert!(!quickness.is_quick());
    }
}
