//! When to look at the queue again: at once while there is work, ever later while there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::config::Config;

/// The adaptive, jittered pace of an idle consumer.
#[derive(Debug)]
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    misses: u32,
    next: Instant,
}

impl Pace {
    /// A pace between two pauses; the first look is at once.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            misses: 0,
            next: Instant::now(),
        }
    }

    /// The pace of an application: slower where the engine wakes the consumer.
    pub(crate) fn of(config: &Config, wakes: bool) -> Self {
        let (min, max) = if wakes { (1000, 5000) } else { (100, 1000) };
        let max = config.poll_max.unwrap_or(Duration::from_millis(max));
        let min = config
            .poll_min
            .unwrap_or(Duration::from_millis(min).min(max));
        Self::new(min, max)
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// There may be more: look at once.
    pub(crate) fn now(&mut self) {
        self.misses = 0;
        self.next = Instant::now();
    }

    /// There was nothing; if the engine knows when the next message falls due, not later than that.
    pub(crate) fn idle(&mut self, next_due: Option<Duration>, random: f64) {
        let pause = self
            .min
            .saturating_mul(1 << self.misses.min(16))
            .min(self.max);
        self.misses = self.misses.saturating_add(1);
        let pause = pause.mul_f64(0.8 + 0.2 * random);
        self.next = later(Instant::now(), next_due.map_or(pause, |due| due.min(pause)));
    }

    /// The queue could not be asked: try again soon, at most a second later.
    pub(crate) fn failed(&mut self, random: f64) {
        let pause = Duration::from_millis(50).saturating_mul(1 << self.misses.min(8));
        self.misses = self.misses.saturating_add(1);
        self.next = Instant::now()
            + pause
                .min(Duration::from_secs(1))
                .mul_f64(0.8 + 0.2 * random);
    }

    /// Look again after a pause, without counting a miss.
    pub(crate) fn soon(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }
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
