//! Acts that are recorded in the audit trail before they are done.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use crate::engine::{AuditEntry, Engine, Operations};
use crate::error::{ErrorKind, Result, error_chain};
use crate::logging::warn;

type Acting<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;
type Act<'a, T> = Box<dyn FnOnce(AuditEntry) -> Acting<'a, T> + Send + 'a>;

/// Something that is done when this is awaited, and is recorded in the
/// [audit trail](crate::app::App::audit) before.
///
/// # Errors
/// Those of the method that returned this. When it cannot be recorded, nothing is done.
///
/// # Cancel safety
/// Dropping the future leaves it open whether it was done. An entry without a count may stay.
#[must_use = "nothing is done until this is awaited"]
pub struct RecordedAct<'a, T> {
    entry: Result<AuditEntry>,
    act: Act<'a, T>,
}

impl<'a, T> RecordedAct<'a, T> {
    /// Something that an engine does by calls of its own. `act` gets the entry with its signature, and
    /// passes it to [`recorded`].
    pub fn new<F>(entry: Result<AuditEntry>, act: impl FnOnce(AuditEntry) -> F + Send + 'a) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'a,
    {
        Self {
            entry,
            act: Box::new(move |entry| Box::pin(act(entry))),
        }
    }

    /// Who does it. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        // Of a wrong request, the error is what is told.
        if let Ok(entry) = &mut self.entry {
            entry.signature.by = who.into();
        }
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        if let Ok(entry) = &mut self.entry {
            entry.signature.reason = Some(reason.into());
        }
        self
    }

    async fn run(self) -> Result<T> {
        (self.act)(self.entry?).await
    }
}

impl<'a, T: 'a> IntoFuture for RecordedAct<'a, T> {
    type Output = Result<T>;
    type IntoFuture = Acting<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<T> fmt::Debug for RecordedAct<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedAct")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// Records an entry in the audit trail of an engine, at the time of now, and then does what it tells of. An
/// engine without a trail does it all the same.
///
/// `count` says to how many events it was done. With 0, and after an error that says that nothing was done,
/// the entry is removed. With `None`, and after any other error, it stays without a count.
///
/// ```
/// use ezq_core::admin::{AuditAction, AuditEntry, Signature, recorded};
/// use ezq_core::chrono::Utc;
/// use ezq_core::engine::Engine;
/// # use ezq_core::testing::TestApp;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// # let app = TestApp::new(|app| app)?;
/// # let queue = ezq_core::message::QueueName::new("orders")?;
/// let engine = app.engine();
/// let ada = Signature::new("Ada");
/// let entry = AuditEntry::new(Utc::now(), ada, AuditAction::CreateQueue, queue.clone());
/// recorded(engine, entry, engine.ensure_queue(&queue), |()| None).await?;
/// # assert_eq!(app.audit().list().await?.entries.len(), 1);
/// # Ok(()) }
/// ```
///
/// # Errors
/// Why it cannot be recorded: then nothing was done. Otherwise those of what is done.
pub async fn recorded<T>(
    engine: &dyn Engine,
    entry: AuditEntry,
    act: impl Future<Output = Result<T>>,
    count: impl FnOnce(&T) -> Option<u64>,
) -> Result<T> {
    // Before the act: what is done without an entry could not be told later.
    let recorded = Recorded::begin(engine, entry).await?;
    let done = act.await;
    match done.as_ref().map(count) {
        Ok(Some(count)) => recorded.end(count).await,
        Err(failure) if was_refused(failure.kind()) => recorded.end(0).await,
        // Nothing is counted, or it is not known what was done.
        Ok(None) | Err(_) => {}
    }
    done
}

/// The count of what is done to one thing, or to none if that was not there.
pub(super) fn unless_absent(was_there: &bool) -> Option<u64> {
    (!was_there).then_some(0)
}

/// Whether such an error says that nothing was done.
fn was_refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Configuration
            | ErrorKind::InvalidPattern
            | ErrorKind::InvalidQueueName
            | ErrorKind::QueueMissing
            | ErrorKind::ScheduleMissing
            | ErrorKind::ScheduleTaken
            | ErrorKind::Unsupported
    )
}

/// An entry about something that is under way. Without an end it stays, and says of no count.
pub(crate) struct Recorded<'a> {
    kept: Option<(&'a dyn Operations, String)>,
}

impl<'a> Recorded<'a> {
    /// Records what is going to be done, if the engine keeps a trail.
    ///
    /// # Errors
    /// It cannot be recorded, so it must not be done.
    pub(crate) async fn begin(engine: &'a dyn Engine, entry: AuditEntry) -> Result<Self> {
        let kept = match engine.operations() {
            // Without a trail an operator can act all the same.
            None => None,
            Some(operations) => Some((operations, operations.record_act(&entry).await?)),
        };
        Ok(Self { kept })
    }

    /// Records to how many events it was done.
    pub(crate) async fn end(self, count: u64) {
        let Some((operations, id)) = self.kept else {
            return;
        };
        if let Err(error) = operations.record_count(&id, count).await {
            // What was done stays done.
            let error = error_chain(&error);
            warn!(
                count,
                error, "an entry of the audit trail stays without its count"
            );
        }
    }
}
