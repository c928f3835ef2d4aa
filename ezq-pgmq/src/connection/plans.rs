//! Plans that the server keeps and that no longer fit.
//!
//! The server keeps the plan of a prepared statement. One on a queue's table may have been made while
//! that was empty: then it scans the whole table, which takes tens of milliseconds for each event once
//! there is a backlog, until the table is analysed. The engine's own connections forbid such plans. On
//! the application's pool no such setting is ezq's to make, since the handler's statements would be
//! planned by it, too; and to plan each time costs a tenth of a short transaction.
//!
//! So ezq's statements in a transaction of the pool carry a number. Once one takes longer than finding
//! rows by key does, the number is raised, and the server plans them for the table as it is then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a statement takes at most that finds its rows by key, and for each row beside.
const QUICK: Duration = Duration::from_millis(3);
const EACH: Duration = Duration::from_micros(100);
/// How soon statements are planned anew after the last time. The pause doubles while that does not
/// help: something else is slow, such as the network.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Plans(Mutex<State>);

#[derive(Debug)]
struct State {
    number: u32,
    /// Not before this.
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
    /// A part of a statement's text: another number is another statement to the server.
    pub(crate) fn number(&self) -> u32 {
        self.state().number
    }

    /// Notes what a statement took that found so many rows by key.
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
        // As many rows as these may take so long.
        plans.took(Duration::from_millis(50), 1000);
        assert_eq!(plans.number(), 0);
        plans.took(Duration::from_millis(50), 1);
        assert_eq!(plans.number(), 1);
        plans.took(Duration::from_millis(50), 1);
        assert_eq!(plans.number(), 1, "it was planned a moment ago");
    }
}
