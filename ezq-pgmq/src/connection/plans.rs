//! Replanning statements in transactions of the pool whose cached plans no longer fit.
//!
//! The server caches the plan of a prepared statement. A plan that was made while a queue's table
//! was empty scans the whole table. With a backlog that takes tens of milliseconds for each event,
//! until the table is analysed. Dedicated connections forbid such plans. In the pool's sessions ezq
//! cannot: the handler's statements would be planned by the same setting. Planning each time would
//! cost a tenth of a short transaction.
//!
//! So ezq's statements there carry a number. If one takes longer than finding rows by key does, the
//! number rises, and the server plans the statements again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most that a statement takes that finds its rows by key, and the most for each row.
const QUICK: Duration = Duration::from_millis(3);
const EACH: Duration = Duration::from_micros(100);
/// The shortest and longest pause until statements are planned again. It doubles while planning
/// does not help: then something else is slow, such as the network.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Plans(Mutex<State>);

#[derive(Debug)]
struct State {
    number: u32,
    /// When the number may rise next.
    next: Option<Instant>,
    pause: Duration,
}

impl Default for Plans {
    fn default() -> Self {
        Self(Mutex::new(State {
            number: 0,
            next: None,
            pause: SHORTEST,
        }))
    }
}

impl Plans {
    /// A part of a statement's text: with another number it is another statement to the server.
    pub(crate) fn number(&self) -> u32 {
        self.state().number
    }

    /// Records how long a statement took that found so many rows by key.
    pub(crate) fn took(&self, time: Duration, rows: usize) {
        let count = u32::try_from(rows).unwrap_or(u32::MAX);
        let mut state = self.state();
        if time < QUICK.saturating_add(EACH.saturating_mul(count)) {
            state.pause = SHORTEST;
            return;
        }

        let now = Instant::now();
        if state.next.is_some_and(|next| now < next) {
            return;
        }

        state.number = state.number.wrapping_add(1);
        state.next = now.checked_add(state.pause);
        state.pause = state.pause.saturating_mul(2).min(LONGEST);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only decides when a statement is planned again: a stale state costs time and no more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_anew_what_was_slow_once_in_a_while() {
        let plans = Plans::default();
        plans.took(Duration::from_millis(1), 1);
        assert_eq!(plans.number(), 0);
        // So many rows may take that long.
        plans.took(Duration::from_millis(50), 1000);
        assert_eq!(plans.number(), 0);
        plans.took(Duration::from_millis(50), 1);
        assert_eq!(plans.number(), 1);
        plans.took(Duration::from_millis(50), 1);
        assert_eq!(plans.number(), 1, "it was planned a moment ago");
    }
}
