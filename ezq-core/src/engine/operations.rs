//! Acting on stored events: one by its id, or everything that matches a filter as an operation that
//! survives its process; and the audit trail of who did what.
//!
//! An operation goes in steps. Each step does its work, moves the operation's position and counts in
//! one transaction. So a process that is killed in between loses nothing and repeats nothing: the next
//! step begins where the last one ended.

use async_trait::async_trait;

use crate::engine::actions::{
    ActOutcome, EventAction, EventRef, Operation, Preview, Selection, Signature,
};
use crate::engine::audit::{AuditEntry, AuditPage, AuditRequest};
use crate::error::Result;
use crate::message::queue_name::QueueName;

/// An engine that acts on stored events and keeps an audit trail. What is done and its entry in the
/// trail are stored together, or neither is. With [`Pauses`](crate::engine::Pauses) or
/// [`Cancellations`](crate::engine::Cancellations) it records those in the trail, too. What other calls do
/// is [recorded](Self::record_act) before.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Does something to events of a queue, each by its id, and answers one outcome each, in their
    /// order. All is one step: after an error nothing was done.
    ///
    /// What waits behind a removed event of the same ordering key can be handed out at once. An event
    /// that is moved keeps its event id, its type, its headers and the marks of handlers that are done;
    /// it is stored as the newest of the other queue.
    ///
    /// # Errors
    /// - [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) if the queue, or the one to move to, does not exist.
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for an action that does not fit the events.
    /// - Otherwise when the store could not be written.
    async fn act(
        &self,
        queue: &QueueName,
        action: &EventAction,
        events: &[EventRef],
        signature: &Signature,
    ) -> Result<Vec<ActOutcome>>;

    /// Counts in full what an operation would act on. It changes nothing.
    ///
    /// # Errors
    /// - [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) if there is no such queue.
    /// - [`ErrorKind::Transient`](crate::ErrorKind::Transient) if counting takes too long.
    /// - Otherwise when the store could not be read.
    async fn preview(&self, selection: &Selection) -> Result<Preview>;

    /// Stores an operation under an id, which no other has. It does nothing to events yet. If there is
    /// an operation of this id, that is returned as it is.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    async fn start(
        &self,
        id: &str,
        action: &EventAction,
        selection: &Selection,
        signature: &Signature,
    ) -> Result<Operation>;

    /// Takes the next step of an operation, in ascending order of ids, and returns how far it is then.
    /// One that was stopped or has ended is returned as it is. Of two processes, one waits for the
    /// other's step.
    ///
    /// # Errors
    /// [`ErrorKind::OperationMissing`](crate::ErrorKind::OperationMissing) if there is none; otherwise why the step could not be taken. It
    /// then changed nothing.
    async fn step(&self, id: &str) -> Result<Operation>;

    /// Stops an operation before its next step. One that has ended stays so.
    ///
    /// # Errors
    /// [`ErrorKind::OperationMissing`](crate::ErrorKind::OperationMissing) if there is none; otherwise when the store could not be written.
    async fn stop(&self, id: &str, signature: &Signature) -> Result<Operation>;

    /// Lets an operation that was stopped take steps again. It takes none by itself.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    async fn proceed(&self, id: &str, signature: &Signature) -> Result<Operation>;

    /// The newest operations, newest first.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn list_operations(&self, limit: usize) -> Result<Vec<Operation>>;

    /// One operation, or `None` if there is none of this id.
    ///
    /// # Errors
    /// When the store could not be read.
    async fn find_operation(&self, id: &str) -> Result<Option<Operation>>;

    /// Whether this client lacks the right to write the audit trail. Nothing is done that cannot be recorded.
    ///
    /// # Errors
    /// When the store could not be asked.
    async fn is_read_only(&self) -> Result<bool> {
        Ok(false)
    }

    /// Writes an entry about what another call is going to do, so that nothing is done that cannot be
    /// recorded. Its time is now. Returns an id, with which its count [follows](Self::record_count).
    ///
    /// # Errors
    /// When the store could not be written.
    async fn record_act(&self, entry: &AuditEntry) -> Result<String>;

    /// Sets the count of an entry: to how many events it was done. One that was done to nothing is removed.
    ///
    /// # Errors
    /// When the store could not be written.
    async fn record_count(&self, id: &str, count: u64) -> Result<()>;

    /// Reads a page of the audit trail.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for a cursor that is none of this engine's; otherwise when the store
    /// could not be read.
    async fn audit(&self, request: &AuditRequest) -> Result<AuditPage>;
}
