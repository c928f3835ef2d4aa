//! How long to wait before the next attempt: a pure function of attempt and chance.

use std::time::Duration;

/// How often a handler is tried, and how long it waits in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1. Defaults to 5.
    pub max_attempts: u32,
    /// The pause between attempts. Defaults to exponential from 1 s to 5 min; with 5 attempts the
    /// pauses come to at most 15 s in all.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            backoff: Backoff::default(),
        }
    }
}

/// The pause between one attempt and the next: a pure function of attempt, error and chance.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Backoff {
    /// Anything from nothing up to `initial * 2^(attempt - 1)`, at most `max`: exponential backoff
    /// with full jitter, which spreads a crowd of failures best (M. Brooker, "Exponential Backoff
    /// And Jitter", AWS Architecture Blog, 2015).
    Exponential {
        /// The bound after the first attempt.
        initial: Duration,
        /// The bound that is never exceeded.
        max: Duration,
    },
    /// Always the same.
    Constant(Duration),
    /// `step * attempt`, at most `max`.
    Linear {
        /// What each attempt adds.
        step: Duration,
        /// The bound that is never exceeded.
        max: Duration,
    },
    /// A function of one's own: of the attempt (from 1), the error's text and its sources', and a
    /// random number from 0 to 1.
    Custom(fn(attempt: u32, error: &str, random: f64) -> Duration),
}

/// Functions are equal when they are the same in this program.
impl PartialEq for Backoff {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (
                Self::Exponential { initial: a, max: b },
                Self::Exponential { initial: c, max: d },
            )
            | (Self::Linear { step: a, max: b }, Self::Linear { step: c, max: d }) => {
                (a, b) == (c, d)
            }
            (Self::Constant(a), Self::Constant(b)) => a == b,
            (Self::Custom(a), Self::Custom(b)) => std::ptr::fn_addr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Backoff {}

impl Default for Backoff {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), Duration::from_secs(300))
    }
}

impl Backoff {
    /// Exponential with full jitter.
    #[must_use]
    pub const fn exponential(initial: Duration, max: Duration) -> Self {
        Self::Exponential { initial, max }
    }

    /// Always the same pause.
    #[must_use]
    pub const fn constant(pause: Duration) -> Self {
        Self::Constant(pause)
    }

    /// A pause that grows by a step with each attempt.
    #[must_use]
    pub const fn linear(step: Duration, max: Duration) -> Self {
        Self::Linear { step, max }
    }

    /// A function of one's own.
    ///
    /// ```
    /// use ezq_core::Backoff;
    /// use std::time::Duration;
    ///
    /// let patient = Backoff::custom(|attempt, error, _random| {
    ///     let slow = error.contains("too many requests");
    ///     Duration::from_secs(if slow { 600 } else { 5 * u64::from(attempt) })
    /// });
    /// assert_eq!(patient.delay(2, "too many requests", 0.5), Duration::from_secs(600));
    /// ```
    #[must_use]
    pub const fn custom(pause: fn(attempt: u32, error: &str, random: f64) -> Duration) -> Self {
        Self::Custom(pause)
    }

    /// 2, 4, 8, 16 ... minutes, without chance: the schedule of django-broadcaster's outbox.
    #[must_use]
    pub const fn doubling_minutes() -> Self {
        Self::Custom(|attempt, _, _| {
            let minutes = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
            Duration::from_secs(60).saturating_mul(minutes)
        })
    }

    /// The pause after an attempt (from 1) that failed with an error, given a random number from 0
    /// to 1.
    ///
    /// ```
    /// use ezq_core::Backoff;
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
    /// assert_eq!(backoff.delay(3, "", 1.0), Duration::from_secs(4));
    /// assert_eq!(backoff.delay(3, "", 0.5), Duration::from_secs(2));
    /// assert_eq!(backoff.delay(30, "", 1.0), Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn delay(&self, attempt: u32, error: &str, random: f64) -> Duration {
        let attempt = attempt.max(1);
        match *self {
            Self::Exponential { initial, max } => {
                let factor = 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
                let bound = initial.saturating_mul(factor).min(max);
                let secs = bound.as_secs_f64() * random.clamp(0.0, 1.0);
                Duration::try_from_secs_f64(secs).unwrap_or(bound)
            }
            Self::Constant(pause) => pause,
            Self::Linear { step, max } => step.saturating_mul(attempt).min(max),
            Self::Custom(pause) => pause(attempt, error, random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_exceeds_its_cap() {
        let (step, max) = (Duration::from_secs(7), Duration::from_secs(60));
        for attempt in [0, 1, 2, 10, 31, 32, 33, u32::MAX] {
            assert!(Backoff::exponential(step, max).delay(attempt, "", 1.0) <= max);
            assert!(Backoff::linear(step, max).delay(attempt, "", 1.0) <= max);
        }
    }

    #[test]
    fn doubles_minutes_without_end() {
        let backoff = Backoff::doubling_minutes();
        let minutes = |attempt| backoff.delay(attempt, "", 0.3).as_secs() / 60;
        assert_eq!([1, 2, 3, 10].map(minutes), [2, 4, 8, 1024]);
        assert!(backoff.delay(u32::MAX, "", 0.3) >= backoff.delay(31, "", 0.3));
    }

    #[test]
    fn grows_linearly() {
        let backoff = Backoff::linear(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(backoff.delay(3, "", 0.0), Duration::from_secs(6));
    }
}
