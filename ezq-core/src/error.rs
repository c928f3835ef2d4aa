//! The error type of ezq: a kind to match on, a message that says what to do, and a source.
//!
//! Begin at [`Error::kind`] to act on a failure, and at [`error_chain`] to print one with its sources.
//!
//! A message never contains a connection string. Code that turns a driver's error into an [`Error`]
//! passes it as the source, and describes the server by host, port and database name only.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::text::panic_text;

/// The result of an ezq operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong in ezq, with a [kind](Error::kind) to match on.
///
/// ```
/// use ezq_core::ErrorKind;
/// use ezq_core::message::QueueName;
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

/// The kind of an [`Error`]. Match on it, never on the text.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A text is no [queue name](crate::message::QueueName).
    InvalidQueueName,
    /// A text is no [pattern](crate::event::Pattern) of event types.
    InvalidPattern,
    /// An event cannot be published as it is: an empty or malformed attribute, or text that the
    /// engine's store cannot keep.
    InvalidEvent,
    /// A header that a publisher set has a name that ezq or PGMQ keeps for itself.
    ReservedHeader,
    /// An event's payload could not be written as JSON.
    Encode,
    /// The body of a message could not be read as the event it claims to be.
    Decode,
    /// A message was written with a codec that the application does not have.
    UnknownCodec,
    /// An event has a newer version than its Rust type knows.
    NewerVersion,
    /// Some of the events that were published together are stored, others are not. The source is a
    /// [`PublishAllError`](crate::publish::PublishAllError), which says which.
    PartlyPublished,
    /// A message is larger than the limit of its queue.
    TooLarge,
    /// An option, an environment variable, or a combination of them is wrong.
    Configuration,
    /// A handler asks for a `State<T>` that the application was not given.
    MissingState,
    /// An event set has no variant for the event.
    UnknownVariant,
    /// A handler or a layer returned what does not fit its run, such as another number of results than
    /// its batch has events.
    InvalidResult,
    /// A handler that was run [inline](crate::app::App::dispatch_inline) failed.
    HandlerFailed,
    /// Two handlers have the same name.
    DuplicateHandler,
    /// Two event types have the same type name and version.
    DuplicateEvent,
    /// Two handlers of a queue would read one version of an event differently: one as that version,
    /// the other as a newer one.
    AmbiguousVersion,
    /// Events are published to a queue from which their handler does not take events.
    UnreachableHandler,
    /// A test published an event that no handler takes; from [`TestApp::drain`].
    ///
    /// [`TestApp::drain`]: crate::testing::TestApp::drain
    NoHandler,
    /// There is no tokio runtime where one is needed.
    NoRuntime,
    /// The tokio runtime ended on which a consumer ran, or on which an engine was connected.
    RuntimeEnded,
    /// The code of a consumer, of an engine, or of a function that the application was given panicked.
    /// A handler's panic is a failed attempt, and no error of this kind.
    Panicked,
    /// The transaction of a handler has ended, so nothing can be published in it any more, or the handler
    /// ended it itself.
    TransactionEnded,
    /// The engine cannot do what was asked. The message names what is needed.
    Unsupported,
    /// The server could not be reached, or the connection was lost. A retry may help.
    Connection,
    /// The server refused the credentials, or the role lacks a right.
    Permission,
    /// The database named in the URL does not exist.
    DatabaseMissing,
    /// PGMQ is not installed and could not be installed, or it is older than ezq supports.
    PgmqMissing,
    /// A table of ezq's own is missing or cannot be accessed, and ezq may not or cannot create it. The
    /// message contains the SQL that does.
    SchemaMissing,
    /// The queue does not exist.
    QueueMissing,
    /// There is no schedule of this name, or this application's code does not have it.
    ScheduleMissing,
    /// There is no operation of this id.
    OperationMissing,
    /// Another application uses the name of the schedule for something else.
    ScheduleTaken,
    /// The store gave up for a reason that will pass: a deadlock, a serialisation failure, a timeout.
    /// A retry may help.
    Transient,
    /// Another worker holds the message.
    LeaseLost,
    /// The engine did not make the receipt that it was given, or a token is longer than a receipt's may
    /// be.
    InvalidReceipt,
    /// The store failed in a way that a retry is not known to help.
    Engine,
}

impl Error {
    /// An error of a kind, with a message that says what went wrong and, if something can be done
    /// about it, what.
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

    /// The same error, with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// A second error with the same kind and message and no source, for another part of what failed.
    #[must_use]
    pub fn without_source(&self) -> Self {
        Self::new(self.inner.kind, self.inner.message.clone())
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the same operation may succeed later: true for [`ErrorKind::Connection`] and
    /// [`ErrorKind::Transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connection | ErrorKind::Transient
        )
    }
}

/// For people, because a `main` that returns an error prints it this way: the chain of errors, then
/// the kind. `{:#?}` shows the parts.
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

/// An error and its sources on one line: outermost first, joined by `: `.
///
/// An error whose text panics is replaced by the panic's message: errors of handlers, codecs and
/// engines are code of others, and none of it may stop a consumer.
///
/// ```
/// use ezq_core::{Error, ErrorKind};
/// use ezq_core::error::error_chain;
///
/// let error = Error::new(ErrorKind::Connection, "cannot reach the database").with_source("refused");
/// assert_eq!(error_chain(&error), "cannot reach the database: refused");
/// ```
#[must_use]
pub fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let (mut text, mut next) = text_and_source(error);
    while let Some(source) = next {
        let (cause, after) = text_and_source(source);
        // Some errors end with the text of their source, which would then appear twice.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = after;
    }
    text
}

/// What an error says of itself. One that panics has no source.
fn text_and_source<'e>(
    error: &'e (dyn StdError + 'static),
) -> (String, Option<&'e (dyn StdError + 'static)>) {
    catch_unwind(AssertUnwindSafe(|| (error.to_string(), error.source()))).unwrap_or_else(|panic| {
        let text = format!("the text of an error panicked: {}", panic_text(&*panic));
        (text, None)
    })
}
