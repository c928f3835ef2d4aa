//! How long to wait before the next attempt: a pure function of attempt, error and chance.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::outcome::HandlerError;
use crate::logging::warn;
use crate::text::panic_text;

/// How often a handler is tried, and how long it waits between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
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
/// use ezq_core::handler::{Backoff, FailedAttempt, HandlerError, Jitter};
/// use std::time::Duration;
///
/// // 2, 4, 8, 16 ... minutes, always the same and without a limit.
/// let backoff = Backoff::Exponential {
///     initial: Duration::from_secs(120),
///     max: Duration::MAX,
///     multiplier: 2,
///     jitter: Jitter::None,
/// };
/// let error = HandlerError::retry("no connection");
/// let third = FailedAttempt::new(3, &error, 0.5);
/// assert_eq!(backoff.delay(&third), Duration::from_secs(8 * 60));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A pause that your own code decides; [`Backoff::custom`] makes it.
    Custom(CustomBackoff),
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

/// An attempt that failed, as a backoff sees it.
///
/// It is all that a pause depends on, so that a [backoff of your own](Backoff::custom) can be tested
/// without a clock and without chance.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FailedAttempt<'a> {
    /// Which attempt failed. The first is 1.
    pub number: u32,
    /// Why it failed. Its [`source`](HandlerError::source) is what the handler returned, with its
    /// type. After a panic or a timeout it is only a text.
    pub error: &'a HandlerError,
    /// A random number from 0.0 up to, but not including, 1.0. Each pause gets a new one.
    pub random: f64,
}

impl<'a> FailedAttempt<'a> {
    /// An attempt (the first is 1) that failed with an error, and a random number from 0.0 to 1.0.
    #[must_use]
    pub const fn new(number: u32, error: &'a HandlerError, random: f64) -> Self {
        Self {
            number,
            error,
            random,
        }
    }
}

type Pause = dyn Fn(&FailedAttempt<'_>) -> Duration + Send + Sync;

/// The code behind a [`Backoff::Custom`]. [`Backoff::custom`] makes it.
///
/// Two are equal if one is a clone of the other.
#[derive(Clone)]
pub struct CustomBackoff(Arc<Pause>);

/// Two dots, so that a [`Backoff`] shows itself as `Custom(..)`: a closure has no name.
impl fmt::Debug for CustomBackoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl PartialEq for CustomBackoff {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CustomBackoff {}

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

    /// A pause that your own code decides: a function, or a closure with what it needs.
    ///
    /// It is called once for each pause that the policy decides. It is not called after the last
    /// attempt, after an error that no retry can mend, or if the error itself names a pause.
    ///
    /// It must not block, because it runs between the events of a consumer. If it panics, the panic
    /// is logged and the default backoff decides this pause. A pause longer than the engine can keep
    /// becomes the longest that it can.
    ///
    /// ```
    /// # use std::fmt;
    /// use ezq_core::handler::{Backoff, FailedAttempt, HandlerError};
    /// use std::time::Duration;
    ///
    /// #[derive(Debug)]
    /// struct TooManyRequests;
    /// # impl fmt::Display for TooManyRequests {
    /// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("slow down") }
    /// # }
    /// # impl std::error::Error for TooManyRequests {}
    ///
    /// let unit = Duration::from_secs(5);
    /// let patient = Backoff::custom(move |failed: &FailedAttempt<'_>| {
    ///     if failed.error.source().is::<TooManyRequests>() {
    ///         return Duration::from_secs(600);
    ///     }
    ///     unit * failed.number
    /// });
    ///
    /// let busy = HandlerError::retry(TooManyRequests);
    /// assert_eq!(patient.delay(&FailedAttempt::new(2, &busy, 0.5)), Duration::from_secs(600));
    /// let other = HandlerError::retry("no connection");
    /// assert_eq!(patient.delay(&FailedAttempt::new(2, &other, 0.5)), Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn custom(pause: impl Fn(&FailedAttempt<'_>) -> Duration + Send + Sync + 'static) -> Self {
        Self::Custom(CustomBackoff(Arc::new(pause)))
    }

    /// The pause after an attempt, with a random number of its own. The default backoff stands in for
    /// a custom one that panics: its panic must not cost the event. `of` names in the log whose
    /// attempt it was.
    pub(crate) fn next_delay(
        &self,
        number: u32,
        error: &HandlerError,
        of: &dyn fmt::Display,
    ) -> Duration {
        let failed = FailedAttempt::new(number, error, rand::random());
        catch_unwind(AssertUnwindSafe(|| self.delay(&failed))).unwrap_or_else(|panic| {
            let panic = panic_text(&*panic);
            warn!(%of, attempt = number, panic, "a custom backoff panicked: the default one decides");
            Self::default().delay(&failed)
        })
    }

    /// The pause after an attempt that failed.
    ///
    /// # Panics
    /// If a [custom](Self::custom) backoff panics.
    ///
    /// # Examples
    /// ```
    /// use ezq_core::handler::{Backoff, FailedAttempt, HandlerError};
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
    /// let error = HandlerError::retry("no connection");
    /// let delay = |number, random| backoff.delay(&FailedAttempt::new(number, &error, random));
    /// assert_eq!(delay(3, 1.0), Duration::from_secs(4));
    /// assert_eq!(delay(3, 0.5), Duration::from_secs(2));
    /// assert_eq!(delay(30, 1.0), Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn delay(&self, failed: &FailedAttempt<'_>) -> Duration {
        let number = failed.number.max(1);
        match self {
            Self::Exponential {
                initial,
                max,
                multiplier,
                jitter,
            } => {
                // Saturating: attempts have no limit, and the pause has one.
                let factor = (*multiplier).max(1).saturating_pow(number - 1);
                let bound = initial.saturating_mul(factor).min(*max);
                match jitter {
                    Jitter::None => bound,
                    Jitter::Full => scaled(bound, failed.random),
                }
            }
            Self::Constant(pause) => *pause,
            Self::Linear { step, max } => step.saturating_mul(number).min(*max),
            Self::Custom(CustomBackoff(pause)) => pause(failed),
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

    /// The pause of a backoff after an attempt.
    fn delay(backoff: &Backoff, number: u32, random: f64) -> Duration {
        let error = HandlerError::retry("no");
        backoff.delay(&FailedAttempt::new(number, &error, random))
    }

    #[test]
    fn never_exceeds_its_cap() {
        let step = Duration::from_secs(7);
        let max = Duration::from_secs(60);
        for number in [0, 1, 2, 10, 31, 32, 33, u32::MAX] {
            assert!(delay(&Backoff::exponential(step, max), number, 1.0) <= max);
            assert!(delay(&Backoff::linear(step, max), number, 1.0) <= max);
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
        let minutes = |number| delay(&backoff, number, 0.3).as_secs() / 60;
        assert_eq!([1, 2, 3, 10].map(minutes), [2, 4, 8, 1024]);
        assert!(delay(&backoff, u32::MAX, 0.3) >= delay(&backoff, 31, 0.3));
    }

    #[test]
    fn multiplies_each_pause_and_never_shrinks_it() {
        let by = |multiplier| Backoff::Exponential {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            multiplier,
            jitter: Jitter::Full,
        };
        let pauses = |multiplier| [1, 2, 3, 9].map(|n| delay(&by(multiplier), n, 1.0).as_secs());
        assert_eq!(pauses(3), [1, 3, 9, 60]);
        assert_eq!(pauses(1), [1, 1, 1, 1]);
        assert_eq!(pauses(0), [1, 1, 1, 1]);
        assert_ne!(by(3), by(2));
    }

    #[test]
    fn grows_linearly() {
        let backoff = Backoff::linear(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(delay(&backoff, 3, 0.0), Duration::from_secs(6));
    }

    #[test]
    fn a_custom_one_equals_its_clones_and_shows_no_closure() {
        let backoff = || Backoff::custom(|_| Duration::ZERO);
        let one = backoff();
        assert_eq!(one, one.clone());
        assert_ne!(
            one,
            backoff(),
            "another closure may have captured other values"
        );
        assert_eq!(format!("{one:?}"), "Custom(..)");
        assert_eq!(format!("{one:#?}"), "Custom(\n    ..,\n)");
    }
}
