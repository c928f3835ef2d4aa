//! The one error type of ezq: a kind to match on, a message that says what to do, and a source.
//!
//! Messages never carry a connection string: whoever builds an error from a driver's error passes
//! it as the source and describes the place with host, port and database name only.

use std::error::Error as StdError;
use std::fmt;

/// The result of an ezq operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong in ezq, with a [kind](Error::kind) to match on.
///
/// ```
/// use ezq_core::{ErrorKind, QueueName};
///
/// let error = QueueName::new("Orders!").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidQueueName);
/// ```
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

/// The sort of an [`Error`]; match on this, never on the text.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A text is not a [queue name](crate::QueueName).
    InvalidQueueName,
    /// A text is not a [pattern](crate::Pattern) of event types.
    InvalidPattern,
    /// An event cannot be published as it is: an empty or malformed attribute, or text that the
    /// engine's store cannot keep.
    InvalidEvent,
    /// An event's payload could not be written as JSON.
    Encode,
    /// A message's body could not be read as the event it claims to be.
    Decode,
    /// A message was written with a codec that the application does not have.
    UnknownCodec,
    /// An event is of a newer version than is known here.
    NewerVersion,
    /// Of several events that were published together some are stored and others are not; the source
    /// is the [`PublishAllError`](crate::PublishAllError), which says which.
    PartlyPublished,
    /// A message is larger than the limit of its queue.
    TooLarge,
    /// An option, an environment variable or a combination of them is wrong.
    Configuration,
    /// A handler asks for a `State<T>` that the application was not given.
    MissingState,
    /// A set of events has no variant for an event it was given.
    UnknownVariant,
    /// A handler failed that was run [inline](crate::App::dispatch_inline).
    HandlerFailed,
    /// Two handlers have one name.
    DuplicateHandler,
    /// Two event types have one type name and version.
    DuplicateEvent,
    /// Two handlers of a queue would read one version of an event in two ways: one as what it is,
    /// the other as a newer version.
    AmbiguousVersion,
    /// Events are published to a queue from which their handler does not take them.
    UnreachableHandler,
    /// A test published an event that no handler takes; [`TestApp::drain`] says so.
    ///
    /// [`TestApp::drain`]: crate::testing::TestApp::drain
    NoHandler,
    /// The engine cannot do what was asked; the message names what would be needed.
    Unsupported,
    /// The server could not be reached, or the connection was lost. Retrying may help.
    Connection,
    /// The server refused the credentials or the role lacks a right.
    Permission,
    /// The database named in the URL does not exist.
    DatabaseMissing,
    /// PGMQ is not installed and could not be installed, or is older than ezq supports.
    PgmqMissing,
    /// A table of ezq's own is absent or out of reach, and ezq may not, or cannot, create it; the
    /// message holds the SQL that does.
    SchemaMissing,
    /// The queue does not exist.
    QueueMissing,
    /// There is no schedule of this name, or this application does not have it in its code.
    ScheduleMissing,
    /// The store gave up for a passing reason (a deadlock, a serialisation failure, a timeout).
    /// Retrying may help.
    Transient,
    /// Another worker holds the message now.
    LeaseLost,
    /// The store failed in a way that a retry is not known to mend.
    Engine,
}

impl Error {
    /// An error of a kind, with a message that says what went wrong and, where something can be
    /// done, what to do.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// The same kind and message once more, for another part of what failed; the source stays here.
    #[must_use]
    pub fn without_source(&self) -> Self {
        Self::new(self.inner.kind, self.inner.message.clone())
    }

    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether doing the same again later may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connection | ErrorKind::Transient
        )
    }
}

/// For people, since `main` shows it: the chain of errors, then the kind. `{:#?}` shows the parts.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            message,
            source,
        } = &*self.inner;
        if f.alternate() {
            let mut parts = f.debug_struct("Error");
            return parts
                .field("kind", kind)
                .field("message", message)
                .field("source", source)
                .finish();
        }
        write!(f, "{} ({kind:?})", error_chain(self))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// An error and its sources on one line, outermost first, joined by `: `.
///
/// ```
/// use ezq_core::{error_chain, Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Connection, "cannot reach the database").with_source("refused");
/// assert_eq!(error_chain(&error), "cannot reach the database: refused");
/// ```
#[must_use]
pub fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Some errors repeat their source in their own text.
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}
