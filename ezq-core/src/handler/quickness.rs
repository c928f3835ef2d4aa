//! How quickly a handler is done, learnt from its runs. One that needs to wait for nothing is done at
//! its first poll, and a task of its own would cost several times what it does; one that computes, or
//! keeps its thread otherwise, would keep the coordinator of its consumer from everything else.
//!
//! So a handler's first poll is made by the coordinator only once enough of its runs in tasks were
//! short and done with. One that was not sends it back to tasks, for twice as many runs each time.
//!
//! Benchmark case: `consume`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What running in a task costs, about, where it is another thread that must be woken for it.
const SHORT: Duration = Duration::from_micros(20);
/// After so many short runs in tasks a handler is taken for quick; and after twice as many, each
/// time that it proved not to be.
const FEWEST: u32 = 8;
const MOST: u32 = 4096;
/// After so many short runs of a quick one, what was before is forgotten.
const PROVEN: u32 = 64;

/// What is known of one handler. Runs that end at one moment may count as one: what is known is a
/// guess in any case, and nothing but speed rests on it.
#[derive(Debug)]
pub(crate) struct Quickness {
    /// How many short runs in tasks are left until it is taken for quick.
    owed: AtomicU32,
    /// How many that was when it was last sent back.
    penalty: AtomicU32,
    /// How many short runs in a row there were since.
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
    /// Whether its next run is likely to be done with at once.
    pub(crate) fn is_quick(&self) -> bool {
        self.owed.load(Relaxed) == 0
    }

    /// Measures the first poll of a run, from now on.
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

/// The first poll of a run, under way. One that panics is not short.
pub(crate) struct FirstPoll<'a> {
    quickness: &'a Quickness,
    began: Instant,
    is_done: bool,
}

impl FirstPoll<'_> {
    /// It ends here; whether the run does, too.
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
