//! What a handler returns: events to publish, or an error that says what becomes of the event.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::{Result, error_chain};
use crate::event::{Event, EventDescriptor};
use crate::publish::draft::Draft;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// Tells ezq why a handler did not handle its event, and what becomes of the event.
///
/// Every other error converts into one that is retried under the handler's policy, so `?` works. To ask
/// for something else, use [`fatal`](Self::fatal), [`retry_after`](Self::retry_after),
/// [`snooze`](Self::snooze) or [`discard`](Self::discard), or [`HandlerResultExt`] on a `Result`.
///
/// Like `anyhow::Error`, it does not implement [`std::error::Error`] itself.
///
/// Errors of `anyhow` and `eyre`, boxed errors and enums of your own all convert. Their chain of sources
/// is kept as it is: logs, notices and dead letters show it on one line, outermost first.
///
/// ```
/// # use std::fmt;
/// use ezq_core::handler::{HandlerError, HandlerErrorKind};
/// use std::time::Duration;
///
/// #[derive(Debug)]
/// enum ChargeError { CardRefused, BankIsBusy }
/// # impl fmt::Display for ChargeError {
/// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{self:?}") }
/// # }
/// # impl std::error::Error for ChargeError {}
///
/// /// What each error means is said once, here.
/// fn handled(error: ChargeError) -> HandlerError {
///     match error {
///         ChargeError::CardRefused => HandlerError::fatal(error),
///         ChargeError::BankIsBusy => HandlerError::retry_after(Duration::from_secs(60), error),
///     }
/// }
///
/// let busy = handled(ChargeError::BankIsBusy);
/// assert_eq!(busy.kind(), HandlerErrorKind::RetryAfter(Duration::from_secs(60)));
/// assert!(busy.source().downcast_ref::<ChargeError>().is_some());
/// ```
///
/// ```
/// use ezq_core::handler::{HandlerError, HandlerResultExt};
///
/// fn charge(amount: &str) -> Result<u32, HandlerError> {
///     // Text that is no number now is none at the next attempt.
///     Ok(amount.parse::<u32>().fatal()?)
/// }
/// assert!(charge("a lot").unwrap_err().is_fatal());
/// ```
pub struct HandlerError {
    pub(crate) kind: HandlerErrorKind,
    source: Source,
}

/// What a [`HandlerError`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerErrorKind {
    /// Another attempt, after the pause of the handler's policy. After the last attempt the event
    /// becomes a dead letter.
    Retry,
    /// Another attempt, after this pause.
    RetryAfter(Duration),
    /// The event comes again after this pause, and no attempt is counted.
    Snooze(Duration),
    /// No retry can help: the event becomes a dead letter.
    Fatal,
    /// The event counts as handled.
    Discard,
    /// The event's data does not fit the type that the handler takes: it becomes a dead letter.
    Undecodable,
    /// The event has a newer version than the type that the handler takes.
    /// [`Config::unknown_types`](crate::config::Config::unknown_types) says what becomes of it.
    NewerVersion,
}

impl HandlerError {
    fn with(kind: HandlerErrorKind, source: impl Into<Source>) -> Self {
        Self {
            kind,
            source: source.into(),
        }
    }

    /// A failure that is retried under the handler's policy.
    pub fn retry(source: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::Retry, source)
    }

    /// A failure that is retried after `pause`, in place of the policy's backoff. It counts as an
    /// attempt.
    pub fn retry_after(pause: Duration, source: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::RetryAfter(pause), source)
    }

    /// No failure: the event comes again after `pause`, and no attempt is counted.
    pub fn snooze(pause: Duration) -> Self {
        Self::with(HandlerErrorKind::Snooze(pause), "snoozed")
    }

    /// A failure that no retry can mend: the event moves to the dead letters.
    pub fn fatal(source: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::Fatal, source)
    }

    /// The event is of no use to this handler: it counts as handled, and the reason is logged.
    pub fn discard(reason: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::Discard, reason)
    }

    pub(crate) fn undecodable(source: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::Undecodable, source)
    }

    pub(crate) fn newer_version(source: impl Into<Source>) -> Self {
        Self::with(HandlerErrorKind::NewerVersion, source)
    }

    /// What the error asks for.
    #[must_use]
    pub fn kind(&self) -> HandlerErrorKind {
        self.kind
    }

    /// The pause that the error itself asks for, by [`retry_after`](Self::retry_after) or
    /// [`snooze`](Self::snooze). `None` where the handler's policy decides, or nothing comes again.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        match self.kind {
            HandlerErrorKind::RetryAfter(pause) | HandlerErrorKind::Snooze(pause) => Some(pause),
            _ => None,
        }
    }

    /// True if no retry can help, so that the event moves to the dead letters.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self.kind,
            HandlerErrorKind::Fatal | HandlerErrorKind::Undecodable
        )
    }

    /// The error that it was made from.
    #[must_use]
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

/// Writes the error and its sources on one line.
impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&error_chain(&*self.source))
    }
}

impl<E: Into<Source>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

/// Turns the error of a `Result` into a [`HandlerError`] that asks for more than a retry.
pub trait HandlerResultExt<T> {
    /// No retry can help: the event moves to the dead letters.
    ///
    /// # Errors
    /// The same error, as a fatal one.
    fn fatal(self) -> Result<T, HandlerError>;

    /// Retries after `pause`, in place of the policy's backoff.
    ///
    /// # Errors
    /// The same error, with the pause.
    fn retry_after(self, pause: Duration) -> Result<T, HandlerError>;

    /// The event comes again after `pause`, and no attempt is counted: what was needed is not there
    /// yet.
    ///
    /// # Errors
    /// The same error, as a reason to snooze.
    fn snooze(self, pause: Duration) -> Result<T, HandlerError>;

    /// The event is of no use to this handler: it counts as handled, and the error is logged.
    ///
    /// # Errors
    /// The same error, as a reason to discard.
    fn discard(self) -> Result<T, HandlerError>;
}

impl<T, E: Into<Source>> HandlerResultExt<T> for Result<T, E> {
    fn fatal(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::fatal)
    }

    fn retry_after(self, pause: Duration) -> Result<T, HandlerError> {
        self.map_err(|error| HandlerError::retry_after(pause, error))
    }

    fn snooze(self, pause: Duration) -> Result<T, HandlerError> {
        let kind = HandlerErrorKind::Snooze(pause);
        self.map_err(|error| HandlerError::with(kind, error))
    }

    fn discard(self) -> Result<T, HandlerError> {
        self.map_err(HandlerError::discard)
    }
}

/// What a handler that succeeded returns: nothing, or events that are published together with the
/// acknowledgement.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not something a handler returns",
    note = "return `()`, an event, `Option`, `Vec` or a tuple of events, or a `Result` of one of these \
            whose error converts into `HandlerError`"
)]
pub trait Emit: Send {
    /// The types of the events that it may be.
    #[doc(hidden)]
    fn emitted_types() -> Vec<EventDescriptor>;

    #[doc(hidden)]
    fn emit(self, drafts: &mut Vec<Draft>) -> Result<()>;
}

impl Emit for () {
    fn emitted_types() -> Vec<EventDescriptor> {
        Vec::new()
    }

    fn emit(self, _: &mut Vec<Draft>) -> Result<()> {
        Ok(())
    }
}

impl<E: Event> Emit for E {
    fn emitted_types() -> Vec<EventDescriptor> {
        vec![EventDescriptor::of::<E>()]
    }

    fn emit(self, drafts: &mut Vec<Draft>) -> Result<()> {
        drafts.push(Draft::of(&self)?);
        Ok(())
    }
}

impl<T: Emit> Emit for Option<T> {
    fn emitted_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn emit(self, drafts: &mut Vec<Draft>) -> Result<()> {
        self.map_or(Ok(()), |inner| inner.emit(drafts))
    }
}

impl<T: Emit> Emit for Vec<T> {
    fn emitted_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn emit(self, drafts: &mut Vec<Draft>) -> Result<()> {
        self.into_iter().try_for_each(|inner| inner.emit(drafts))
    }
}

macro_rules! emit_tuples {
    ($(($($name:ident),+))+) => {$(
        impl<$($name: Emit),+> Emit for ($($name,)+) {
            fn emitted_types() -> Vec<EventDescriptor> {
                [$($name::emitted_types()),+].concat()
            }

            #[allow(non_snake_case)]
            fn emit(self, drafts: &mut Vec<Draft>) -> Result<()> {
                let ($($name,)+) = self;
                $($name.emit(drafts)?;)+
                Ok(())
            }
        }
    )+};
}
emit_tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, F) (A, B, C, D, F, G) }

/// What a handler may return: `()`, events, or a `Result` of these. See [`Emit`].
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not something a handler returns",
    note = "return `()`, an event, `Option`, `Vec` or a tuple of events, or a `Result` of one of these \
            whose error converts into `HandlerError`",
    note = "an error does so if it is `Send + Sync + 'static`: in place of `Box<dyn Error>` write \
            `Box<dyn Error + Send + Sync>`, and in place of a type with an `Rc` or a `Cell` inside \
            one with an `Arc` or a `Mutex`"
)]
pub trait HandlerOutput: Send {
    /// The types of the events that it may be.
    #[doc(hidden)]
    fn returned_types() -> Vec<EventDescriptor>;

    #[doc(hidden)]
    fn into_drafts(self) -> Result<Vec<Draft>, HandlerError>;
}

impl<T: Emit> HandlerOutput for T {
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_drafts(self) -> Result<Vec<Draft>, HandlerError> {
        let mut drafts = Vec::new();
        self.emit(&mut drafts).map_err(HandlerError::fatal)?;
        Ok(drafts)
    }
}

impl<T: Emit, E: Into<HandlerError> + Send> HandlerOutput for Result<T, E> {
    fn returned_types() -> Vec<EventDescriptor> {
        T::emitted_types()
    }

    fn into_drafts(self) -> Result<Vec<Draft>, HandlerError> {
        self.map_err(Into::into)?.into_drafts()
    }
}
