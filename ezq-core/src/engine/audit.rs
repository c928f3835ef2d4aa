//! The audit trail: who did what, and when.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::engine::actions::{EventAction, EventRef, Operation, Selection, Signature};
use crate::engine::browse::{EventFilter, EventState, PageCursor};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// What is recorded in the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditAction {
    /// A queue, a handler or a schedule was paused.
    Pause,
    /// A queue, a handler or a schedule was resumed.
    Resume,
    /// An event was cancelled: at once, or by the worker that had it.
    Cancel,
    /// An event that waited was given up.
    Fail,
    /// An event was discarded, or an operation that discards began.
    Discard,
    /// The same of a redrive.
    Redrive,
    /// The same of a retry.
    RetryNow,
    /// The same of a move.
    Move,
    /// An operation was stopped.
    StopOperation,
    /// An operation was resumed after it was stopped.
    ResumeOperation,
    /// An operation ended.
    EndOperation,
    /// Every message of a queue was removed.
    Purge,
    /// A queue was dropped.
    DropQueue,
}

impl AuditAction {
    const ALL: [Self; 13] = [
        Self::Pause,
        Self::Resume,
        Self::Cancel,
        Self::Fail,
        Self::Discard,
        Self::Redrive,
        Self::RetryNow,
        Self::Move,
        Self::StopOperation,
        Self::ResumeOperation,
        Self::EndOperation,
        Self::Purge,
        Self::DropQueue,
    ];

    /// Its name, such as `retry_now` or `stop_operation`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Fail => "fail",
            Self::Discard => "discard",
            Self::Redrive => "redrive",
            Self::RetryNow => "retry_now",
            Self::Move => "move",
            Self::StopOperation => "stop_operation",
            Self::ResumeOperation => "resume_operation",
            Self::EndOperation => "end_operation",
            Self::Purge => "purge",
            Self::DropQueue => "drop_queue",
        }
    }
}

impl From<&EventAction> for AuditAction {
    fn from(action: &EventAction) -> Self {
        match action {
            EventAction::Discard => Self::Discard,
            EventAction::Redrive => Self::Redrive,
            EventAction::RetryNow => Self::RetryNow,
            EventAction::Move { .. } => Self::Move,
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AuditAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|action| action.name() == text).ok_or_else(|| {
            let text = format!("`{}` is no action of the audit trail", text.escape_debug());
            Error::new(ErrorKind::Configuration, text)
        })
    }
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// When, by the engine's clock.
    pub at: DateTime<Utc>,
    /// Who did it, and why.
    pub signature: Signature,
    /// What was done.
    pub action: AuditAction,
    /// In which queue. `None` of what was done to a schedule.
    pub queue: Option<QueueName>,
    /// The handler that was paused or resumed; `None` for a whole queue.
    pub handler: Option<HandlerName>,
    /// The schedule, if it was one.
    pub schedule: Option<String>,
    /// The queue to which events were moved.
    pub target: Option<QueueName>,
    /// The event, if it was one: in the queue, or among the dead letters.
    pub event: Option<EventRef>,
    /// The operation, if it was one.
    pub operation: Option<String>,
    /// Which events were selected.
    pub selection: Option<(EventState, EventFilter)>,
    /// How many events it was done to. At the begin of an operation: how many were selected. `None` where
    /// that is not known, such as of a purge that runs, or was cut off.
    pub count: Option<u64>,
}

impl AuditEntry {
    /// An entry about a queue, or about none.
    #[must_use]
    pub fn new(
        at: DateTime<Utc>,
        signature: Signature,
        action: AuditAction,
        queue: impl Into<Option<QueueName>>,
    ) -> Self {
        Self {
            at,
            signature,
            action,
            queue: queue.into(),
            handler: None,
            schedule: None,
            target: None,
            event: None,
            operation: None,
            selection: None,
            count: None,
        }
    }

    /// An entry about an operation.
    #[must_use]
    pub fn of_operation(
        at: DateTime<Utc>,
        signature: Signature,
        action: AuditAction,
        operation: &Operation,
    ) -> Self {
        let Selection {
            queue,
            state,
            filter,
            ..
        } = &operation.selection;
        Self {
            operation: Some(operation.id.clone()),
            target: operation.action.target().cloned(),
            selection: Some((*state, filter.clone())),
            ..Self::new(at, signature, action, queue.clone())
        }
    }
}

/// A part of the audit trail to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRequest {
    /// Only what was done in this queue.
    pub queue: Option<QueueName>,
    /// Where the page before this one ended; `None` for the newest entries.
    pub after: Option<PageCursor>,
    /// How many entries to return at most; at least 1.
    pub limit: usize,
}

impl Default for AuditRequest {
    fn default() -> Self {
        Self {
            queue: None,
            after: None,
            limit: 50,
        }
    }
}

/// A page of the audit trail.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries, newest first.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<PageCursor>,
}

impl AuditPage {
    /// A page with a place where the next one begins.
    #[must_use]
    pub fn new(entries: Vec<AuditEntry>, next: Option<PageCursor>) -> Self {
        Self { entries, next }
    }
}
