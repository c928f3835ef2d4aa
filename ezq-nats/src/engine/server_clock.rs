//! The server's clock, as seen from here. It says what is due.
//!
//! Answers of the server hold its time. From the answer that came back fastest, this process counts on with
//! its own monotonic clock, so that a step of its wall clock changes nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// After so long a newer answer counts, even if it took longer: clocks drift.
const FRESH: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// The server's time at a moment of ours.
    time: DateTime<Utc>,
    at: Instant,
    /// How long the answer took, which bounds the error.
    took: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct ServerClock(Mutex<Option<Sample>>);

impl ServerClock {
    /// Notes what the server said its time was, in an answer that took from `asked` to `answered`.
    pub(crate) fn note(&self, asked: Instant, answered: Instant, time: DateTime<Utc>) {
        let took = answered.duration_since(asked);
        let at = asked + took / 2;
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_better =
            sample.is_none_or(|old| took <= old.took || answered.duration_since(old.at) > FRESH);
        if is_better {
            *sample = Some(Sample { time, at, took });
        }
    }

    /// The server's time now.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let sample = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match sample {
            Some(sample) => later(sample.time, sample.at.elapsed()),
            None => Utc::now(),
        }
    }

    /// Whether the server should be asked again.
    pub(crate) fn is_old(&self) -> bool {
        let sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sample.is_none_or(|sample| sample.at.elapsed() > FRESH)
    }
}

/// A time after a pause; the last time that a schedule of NATS can have, if it would be later.
pub(crate) fn later(time: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    let pause = TimeDelta::from_std(pause).ok();
    let due = pause.and_then(|pause| time.checked_add_signed(pause));
    capped(due.unwrap_or(DateTime::<Utc>::MAX_UTC))
}

/// The server keeps times as nanoseconds of 64 bits. What lies beyond them would be due at once.
pub(crate) fn capped(time: DateTime<Utc>) -> DateTime<Utc> {
    // The year 2262, a few months before the last one.
    let last = DateTime::from_timestamp(9_214_646_400, 0);
    last.map_or(time, |last| time.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fastest_answer_counts_until_it_is_old() {
        let clock = ServerClock::default();
        let time = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        clock.note(asked, Instant::now(), time(1_000));
        assert_eq!(clock.now(), time(1_000) + TimeDelta::milliseconds(5));

        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        clock.note(asked, Instant::now(), time(5_000));
        assert!(clock.now() < time(1_002), "a slow answer says less");

        tokio::time::advance(FRESH).await;
        assert!(clock.is_old());
        clock.note(Instant::now(), Instant::now(), time(5_000));
        assert_eq!(clock.now(), time(5_000));
    }

    #[test]
    fn a_time_is_never_beyond_what_the_server_keeps() {
        let last = capped(DateTime::<Utc>::MAX_UTC);
        assert_eq!(later(Utc::now(), Duration::MAX), last);
        assert!(last.timestamp_nanos_opt().is_some());
    }
}
