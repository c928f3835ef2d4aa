//! Running a delivery where it stands. A handler that needs to wait for nothing is done at its first
//! poll, and a task of its own would cost several times what it does. So the first poll is made by
//! the coordinator; what is not done by then goes on in a task.
//!
//! This is kept up only while it pays: a handler that waits, or that keeps the coordinator longer
//! than a task would cost, makes the next deliveries start in tasks, twice as many after each
//! such trial.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What running in a task costs, about, where it is another thread that must be woken for it.
const WORTH: Duration = Duration::from_micros(20);
/// How many deliveries start in tasks after one that was not worth it.
const FEWEST: u32 = 8;
const MOST: u32 = 4096;
/// After as many in a row that were worth it, what was before is forgotten.
const PROVEN: u32 = 64;

/// What runs a delivery.
pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether to try, learnt from what came of it.
#[derive(Debug, Default)]
pub(super) struct Inline {
    skip: u32,
    penalty: u32,
    good: u32,
}

/// What came of starting a delivery.
pub(super) enum Begun {
    Done,
    Panicked,
    /// It goes on in a task.
    Waits(Running),
}

impl Inline {
    /// Starts a delivery, here if that is likely to be worth it.
    pub(super) fn begin(&mut self, mut running: Running) -> Begun {
        if self.skip > 0 {
            self.skip -= 1;
            return Begun::Waits(running);
        }
        let began = Instant::now();
        let mut context = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context)));
        let done = matches!(polled, Ok(Poll::Ready(())));
        self.learn(done && began.elapsed() <= WORTH);
        match polled {
            Ok(Poll::Ready(())) => Begun::Done,
            // Whatever wakes it finds the task's waker: it is polled there at once.
            Ok(Poll::Pending) => Begun::Waits(running),
            Err(_) => Begun::Panicked,
        }
    }

    fn learn(&mut self, worth: bool) {
        if worth {
            self.good += 1;
            if self.good == PROVEN {
                (self.good, self.penalty) = (0, 0);
            }
        } else {
            self.good = 0;
            self.penalty = self.penalty.saturating_mul(2).clamp(FEWEST, MOST);
            self.skip = self.penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn begin(inline: &mut Inline, done: bool) -> bool {
        let running: Running = if done { Box::pin(ready(())) } else { Box::pin(pending()) };
        matches!(inline.begin(running), Begun::Done)
    }

    #[test]
    fn what_waits_is_tried_ever_more_seldom() {
        let mut inline = Inline::default();
        assert!(begin(&mut inline, true));
        assert!(!begin(&mut inline, false));
        assert_eq!(inline.skip, FEWEST);
        for _ in 0..FEWEST {
            assert!(!begin(&mut inline, true), "one that starts in a task is not polled here");
        }
        assert!(!begin(&mut inline, false));
        assert_eq!(inline.skip, 2 * FEWEST);
        for _ in 0..20 {
            inline.learn(false);
        }
        assert_eq!(inline.skip, MOST);
    }

    #[test]
    fn enough_that_are_done_at_once_make_it_forget() {
        let mut inline = Inline::default();
        inline.learn(false);
        inline.learn(false);
        for _ in 0..PROVEN {
            inline.learn(true);
        }
        inline.learn(false);
        assert_eq!(inline.skip, FEWEST);
    }

    #[test]
    fn a_panic_ends_nothing_but_the_delivery() {
        let running: Running = Box::pin(async { std::panic::panic_any("a trial") });
        assert!(matches!(Inline::default().begin(running), Begun::Panicked));
    }
}
