//! When to claim next: at once while there is work, ever later while there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::config::Config;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// The adaptive, jittered pace of an idle consumer.
#[derive(Debug)]
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    /// How many claims in a row found nothing, or failed.
    misses: u32,
    next: Instant,
}

impl Pace {
    /// Pauses from `min` to `max`; the first claim is made at once.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            misses: 0,
            next: Instant::now(),
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

    /// When to claim next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// There may be more: claim at once.
    pub(crate) fn now(&mut self) {
        self.misses = 0;
        self.next = Instant::now();
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

        let pause = jittered(pause, random);
        self.next = later(Instant::now(), next_due.map_or(pause, |due| due.min(pause)));
    }

    /// The queue could not be asked: try again soon, at most a second later.
    pub(crate) fn failed(&mut self, random: f64) {
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.misses.min(8))
            .min(LONGEST_RETRY);
        self.misses = self.misses.saturating_add(1);
        self.next = Instant::now() + jittered(pause, random);
    }

    /// Claim again after a pause, without counting a miss.
    pub(crate) fn soon(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }
}

/// Shortens a pause by up to a fifth, so that consumers that began together do not poll together.
fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.8 + 0.2 * random)
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
}
