//! When to claim next: at once while there is work, ever later while there is none.
//!
//! Where the engine [shares looks](crate::engine::SharedLooks), an idle consumer asks for one ahead of its
//! next claim, by as much as claims are jittered. So the looks of all idle consumers meet: the first that is
//! due answers the others.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::config::Config;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// By which part of it a pause is shortened at most.
const JITTER: f64 = 0.2;

/// The adaptive, jittered pace of an idle consumer.
#[derive(Debug)]
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    /// How many claims in a row found nothing, or failed.
    misses: u32,
    next: Instant,
    /// Whether the engine tells idle consumers that a claim would find nothing.
    has_looks: bool,
    /// From when on to ask for that, ahead of the next claim.
    look_from: Option<Instant>,
}

impl Pace {
    /// Pauses from `min` to `max`; the first claim is made at once.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            misses: 0,
            next: Instant::now(),
            has_looks: false,
            look_from: None,
        }
    }

    /// The pace that an application configures. Its defaults are slower where the engine wakes the
    /// consumer, since polling only finds what a wake-up missed.
    pub(crate) fn of(config: &Config, wakes: bool) -> Self {
        let default_min = Duration::from_millis(if wakes { 1000 } else { 100 });
        let default_max = Duration::from_millis(if wakes { 5000 } else { 1000 });
        let max = config.poll_max.unwrap_or(default_max);
        let min = config.poll_min.unwrap_or(default_min.min(max));
        Self::new(min, max)
    }

    /// The same for an engine that may have shared looks.
    pub(crate) fn with_looks(mut self, has_looks: bool) -> Self {
        self.has_looks = has_looks;
        self
    }

    /// When to claim next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// When something is to be begun: a look, or else a claim.
    pub(crate) fn next_start(&self) -> Instant {
        self.look_from.unwrap_or(self.next)
    }

    /// From when on a look may stand in for the next claim, if any.
    pub(crate) fn look_from(&self) -> Option<Instant> {
        self.look_from
    }

    /// There may be more: claim at once.
    pub(crate) fn now(&mut self) {
        self.misses = 0;
        self.at(Instant::now());
    }

    /// Nothing but a claim can tell whether there is something: claim when that is due.
    pub(crate) fn without_look(&mut self) {
        self.look_from = None;
    }

    /// A look may have found something: claim at once, without taking that for work.
    pub(crate) fn looked(&mut self) {
        self.at(Instant::now());
    }

    fn at(&mut self, next: Instant) {
        self.next = next;
        self.look_from = None;
    }

    /// There was nothing: claim later each time, but not later than the next message falls due, if
    /// the engine knows that.
    pub(crate) fn idle(&mut self, next_due: Option<Duration>, random: f64) {
        // Beyond 2^16 times the shortest pause the longest one applies in any case.
        let pause = self
            .min
            .saturating_mul(1 << self.misses.min(16))
            .min(self.max);
        self.misses = self.misses.saturating_add(1);

        let longest = pause;
        let pause = jittered(longest, random);
        let now = Instant::now();
        self.at(later(now, next_due.map_or(pause, |due| due.min(pause))));

        // What falls due sooner is claimed on time: a look ahead of it would find nothing.
        if self.has_looks && next_due.is_none_or(|due| due > pause) {
            let ahead = longest.mul_f64(JITTER);
            self.look_from = Some(later(now, pause.saturating_sub(ahead)));
        }
    }

    /// The queue could not be asked: try again soon, at most a second later.
    pub(crate) fn failed(&mut self, random: f64) {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.misses.min(8))
            .min(LONGEST_RETRY);
        self.misses = self.misses.saturating_add(1);
        self.at(Instant::now() + jittered(pause, random));
    }

    /// Claim again after a pause, without counting a miss.
    pub(crate) fn soon(&mut self, pause: Duration) {
        self.at(Instant::now() + pause);
    }
}

/// Shortens a pause, so that consumers that began together do not poll together.
fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 - JITTER * (1.0 - random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slows_down_while_idle_and_is_punctual_for_what_falls_due() {
        let mut pace = Pace::new(Duration::from_secs(1), Duration::from_secs(5));
        let pauses: Vec<u64> = (0..4)
            .map(|_| {
                pace.idle(None, 1.0);
                (pace.next() - Instant::now()).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 5]);
        pace.idle(Some(Duration::from_millis(30)), 1.0);
        assert_eq!(pace.next() - Instant::now(), Duration::from_millis(30));
        pace.now();
        assert_eq!(pace.next(), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_comes_ahead_of_a_poll_and_of_nothing_else() {
        let mut pace = Pace::new(Duration::from_secs(5), Duration::from_secs(5)).with_looks(true);
        assert_eq!(pace.look_from(), None, "the first claim is made at once");

        // However a poll is jittered, the looks of all consumers that began together meet.
        let ends = [0.0, 1.0].map(|random| {
            pace.idle(None, random);
            let from = pace.look_from().unwrap() - Instant::now();
            (from.as_secs(), (pace.next() - Instant::now()).as_secs())
        });
        assert_eq!(ends, [(3, 4), (4, 5)]);

        pace.idle(Some(Duration::from_secs(2)), 1.0);
        assert_eq!(pace.look_from(), None, "something falls due");
        pace.idle(Some(Duration::from_secs(60)), 1.0);
        assert!(pace.look_from().is_some());
        pace.now();
        assert_eq!(pace.look_from(), None, "there is work");
    }
}
