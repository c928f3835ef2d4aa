//! How long to wait before the next attempt: a pure function of attempt, error and chance.

use std::time::Duration;

/// How often a handler is tried, and how long it waits between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The number of attempts, including the first; at least 1. Defaults to 5.
    pub max_attempts: u32,
    /// The pause between attempts. Defaults to exponential from 1 s to 5 min: with 5 attempts, all
    /// pauses together take at most 15 s.
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

impl RetryPolicy {
    /// A policy of so many attempts in all, with pauses between them.
    #[must_use]
    pub const fn new(max_attempts: u32, backoff: Backoff) -> Self {
        Self {
            max_attempts,
            backoff,
        }
    }
}

/// The pause between one attempt and the next.
///
/// ```
/// use ezq_core::handler::{Backoff, Jitter};
/// use std::time::Duration;
///
/// // 2, 4, 8, 16 ... minutes, always the same and without a limit.
/// let backoff = Backoff::Exponential {
///     initial: Duration::from_secs(120),
///     max: Duration::MAX,
///     multiplier: 2,
///     jitter: Jitter::None,
/// };
/// assert_eq!(backoff.delay(3, "", 0.5), Duration::from_secs(8 * 60));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Backoff {
    /// A pause that is multiplied after each attempt: `initial * multiplier^(attempt - 1)`, at most
    /// `max`. [`Backoff::exponential`] doubles it, with full jitter.
    Exponential {
        /// The pause after the first attempt, before jitter.
        initial: Duration,
        /// The longest pause. [`Duration::MAX`] means no limit.
        max: Duration,
        /// By how much each pause is longer than the one before; at least 1 (0 counts as 1).
        multiplier: u32,
        /// What chance makes of the pause.
        jitter: Jitter,
    },
    /// Always the same pause.
    Constant(Duration),
    /// A pause that grows by a fixed step: `step * attempt`, at most `max`.
    Linear {
        /// What each attempt adds.
        step: Duration,
        /// The longest pause.
        max: Duration,
    },
    /// A function of your own. It gets the attempt (from 1), the text of the error and its sources,
    /// and a random number from 0 to 1. If it panics, the default backoff is used in its place.
    Custom(fn(attempt: u32, error: &str, random: f64) -> Duration),
}

/// What chance makes of an exponential pause.
///
/// The names are those of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// Nothing: the pause can be predicted, and events that failed together come back together.
    None,
    /// A pause between zero and the whole, each equally likely. It spreads events that failed together
    /// best.
    Full,
}

/// Two custom functions are equal when they are the same function in this program.
impl PartialEq for Backoff {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (
                Self::Exponential {
                    initial,
                    max,
                    multiplier,
                    jitter,
                },
                Self::Exponential {
                    initial: other_initial,
                    max: other_max,
                    multiplier: other_multiplier,
                    jitter: other_jitter,
                },
            ) => {
                initial == other_initial
                    && max == other_max
                    && multiplier == other_multiplier
                    && jitter == other_jitter
            }
            (
                Self::Linear { step, max },
                Self::Linear {
                    step: other_step,
                    max: other_max,
                },
            ) => step == other_step && max == other_max,
            (Self::Constant(pause), Self::Constant(other)) => pause == other,
            (Self::Custom(function), Self::Custom(other)) => std::ptr::fn_addr_eq(function, other),
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
    /// A pause that doubles after each attempt, at most `max`, with full jitter. For another
    /// multiplier or no jitter, write [`Backoff::Exponential`] with its fields.
    #[must_use]
    pub const fn exponential(initial: Duration, max: Duration) -> Self {
        Self::Exponential {
            initial,
            max,
            multiplier: 2,
            jitter: Jitter::Full,
        }
    }

    /// Always the same pause.
    #[must_use]
    pub const fn constant(pause: Duration) -> Self {
        Self::Constant(pause)
    }

    /// A pause that grows by `step` with each attempt, at most `max`.
    #[must_use]
    pub const fn linear(step: Duration, max: Duration) -> Self {
        Self::Linear { step, max }
    }

    /// A pause decided by a function of your own; see [`Backoff::Custom`].
    ///
    /// ```
    /// use ezq_core::handler::Backoff;
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

    /// The pause after an attempt, with a random number of its own. The default backoff stands in for a
    /// custom function that panics: its panic must not cost the event.
    pub(crate) fn next_delay(self, attempt: u32, error: &str) -> Duration {
        let random = rand::random();
        std::panic::catch_unwind(|| self.delay(attempt, error, random))
            .unwrap_or_else(|_| Self::default().delay(attempt, error, random))
    }

    /// The pause after an attempt (from 1) that failed with an error, given a random number from 0
    /// to 1.
    ///
    /// ```
    /// use ezq_core::handler::Backoff;
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
            Self::Exponential {
                initial,
                max,
                multiplier,
                jitter,
            } => {
                // Saturating: attempts have no limit, and the pause has one.
                let factor = multiplier.max(1).saturating_pow(attempt - 1);
                let bound = initial.saturating_mul(factor).min(max);
                match jitter {
                    Jitter::None => bound,
                    Jitter::Full => scaled(bound, random),
                }
            }
            Self::Constant(pause) => pause,
            Self::Linear { step, max } => step.saturating_mul(attempt).min(max),
            Self::Custom(pause) => pause(attempt, error, random),
        }
    }
}

/// A share of a pause. Rounding may carry the share of a very long pause past what a [`Duration`] can
/// hold; then it is the whole pause.
fn scaled(pause: Duration, share: f64) -> Duration {
    let secs = pause.as_secs_f64() * share.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(secs).unwrap_or(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_exceeds_its_cap() {
        let step = Duration::from_secs(7);
        let max = Duration::from_secs(60);
        for attempt in [0, 1, 2, 10, 31, 32, 33, u32::MAX] {
            assert!(Backoff::exponential(step, max).delay(attempt, "", 1.0) <= max);
            assert!(Backoff::linear(step, max).delay(attempt, "", 1.0) <= max);
        }
    }

    #[test]
    fn without_jitter_doubles_without_chance_or_end() {
        let backoff = Backoff::Exponential {
            initial: Duration::from_secs(120),
            max: Duration::MAX,
            multiplier: 2,
            jitter: Jitter::None,
        };
        let minutes = |attempt| backoff.delay(attempt, "", 0.3).as_secs() / 60;
        assert_eq!([1, 2, 3, 10].map(minutes), [2, 4, 8, 1024]);
        assert!(backoff.delay(u32::MAX, "", 0.3) >= backoff.delay(31, "", 0.3));
    }

    #[test]
    fn multiplies_each_pause_and_never_shrinks_it() {
        let by = |multiplier| Backoff::Exponential {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            multiplier,
            jitter: Jitter::Full,
        };
        let pauses = |multiplier| [1, 2, 3, 9].map(|n| by(multiplier).delay(n, "", 1.0).as_secs());
        assert_eq!(pauses(3), [1, 3, 9, 60]);
        assert_eq!(pauses(1), [1, 1, 1, 1]);
        assert_eq!(pauses(0), [1, 1, 1, 1]);
        assert_ne!(by(3), by(2));
    }

    #[test]
    fn grows_linearly() {
        let backoff = Backoff::linear(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(backoff.delay(3, "", 0.0), Duration::from_secs(6));
    }
}
