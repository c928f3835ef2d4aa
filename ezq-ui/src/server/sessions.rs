//! Who is in. The list is in memory, and ends with the process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::secret::{Digest, random};

/// A day's work; whoever stays longer signs in again.
pub(super) const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// More browsers than operators have.
const MOST: usize = 1_000;

/// The sessions: the digest of each name, and when it ends. A lookup by a digest tells nothing of the
/// names by the time that it takes.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Digest, Instant>>);

impl Sessions {
    /// Begins a session. Returns its name, which the browser keeps.
    pub(super) fn open(&self, now: Instant) -> String {
        let name = random();
        let mut sessions = self.sessions();
        sessions.retain(|_, end| *end > now);
        if sessions.len() >= MOST {
            let first = sessions.iter().min_by_key(|(_, end)| **end);
            if let Some(first) = first.map(|(digest, _)| *digest) {
                sessions.remove(&first);
            }
        }
        sessions.insert(Digest::of(&name), now + LASTS);
        name
    }

    pub(super) fn has(&self, name: &str, now: Instant) -> bool {
        let sessions = self.sessions();
        sessions
            .get(&Digest::of(name))
            .is_some_and(|end| *end > now)
    }

    pub(super) fn close(&self, name: &str) {
        self.sessions().remove(&Digest::of(name));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_after_its_time_or_when_it_is_closed() {
        let sessions = Sessions::default();
        let now = Instant::now();
        let name = sessions.open(now);
        assert!(sessions.has(&name, now));
        assert!(!sessions.has(&name, now + LASTS));
        assert!(!sessions.has(&name.to_lowercase(), now));
        sessions.close(&name);
        assert!(!sessions.has(&name, now));
    }

    #[test]
    fn there_are_never_more_than_a_thousand() {
        let sessions = Sessions::default();
        let now = Instant::now();
        let first = sessions.open(now);
        for count in 1..=MOST {
            sessions.open(now + Duration::from_millis(count as u64));
        }
        assert_eq!(sessions.sessions().len(), MOST);
        assert!(!sessions.has(&first, now));
    }
}
