//! The audit trail: who did what, and when.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::engine::actions::{EventAction, EventRef, Operation, Selection, Signature};
use crate::engine::browse::{EventFilter, EventState, PageCursor};
use crate::engine::cancellations::Cancel;
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
    /// An event was cancelled: at once, or by the worker that had it. It became a dead letter.
    Cancel,
    /// An event that waited was given up.
    Fail,
    /// An event was discarded, also by a cancellation that deletes it, or an operation that discards began.
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
    /// A queue got another number of partitions.
    Partition,
    /// An operator created a queue. What publishing and consuming create is not recorded.
    CreateQueue,
    /// An operator published an event by hand. What programs publish is not recorded.
    Publish,
    /// A schedule was fired by hand.
    RunSchedule,
    /// A schedule was removed.
    RemoveSchedule,
    /// A queue was subscribed. What consumers subscribe when they start is not recorded.
    Subscribe,
    /// A subscription was removed.
    Unsubscribe,
    /// What an application declared about an event type was removed.
    Forget,
    /// What an application no longer has was removed: its subscriptions and declarations, or its schedules.
    Prune,
    /// A table was captured, or captured in another way.
    Capture,
    /// A capture was removed.
    EndCapture,
    /// A replay was begun, or went on.
    Replay,
    /// The record of a replay was removed.
    ForgetReplay,
}

impl AuditAction {
    const ALL: [Self; 26] = [
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
        Self::Partition,
        Self::CreateQueue,
        Self::Publish,
        Self::RunSchedule,
        Self::RemoveSchedule,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Forget,
        Self::Prune,
        Self::Capture,
        Self::EndCapture,
        Self::Replay,
        Self::ForgetReplay,
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
            Self::Partition => "partition",
            Self::CreateQueue => "create_queue",
            Self::Publish => "publish",
            Self::RunSchedule => "run_schedule",
            Self::RemoveSchedule => "remove_schedule",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Capture => "capture",
            Self::EndCapture => "end_capture",
            Self::Replay => "replay",
            Self::ForgetReplay => "forget_replay",
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

impl From<Cancel> for AuditAction {
    /// What becomes of the event counts, also if a worker has to be asked for it.
    fn from(what: Cancel) -> Self {
        match what {
            Cancel::Dead => Self::Cancel,
            Cancel::Discard => Self::Discard,
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
    /// In which queue. `None` of what was done to none, such as to a schedule.
    pub queue: Option<QueueName>,
    /// The handler that was paused or resumed; `None` for a whole queue.
    pub handler: Option<HandlerName>,
    /// The schedule, if it was one.
    pub schedule: Option<String>,
    /// The application whose subscription, declaration or schedule it was.
    pub application: Option<String>,
    /// What else it was done to: the pattern of a subscription, the type of an event, a captured table, the
    /// name of a replay, or the numbers of partitions before and after (`1 to 8`).
    pub subject: Option<String>,
    /// The queue to which events were moved or replayed.
    pub target: Option<QueueName>,
    /// The event, if it was one: in the queue, or among the dead letters.
    pub event: Option<EventRef>,
    /// The operation, if it was one.
    pub operation: Option<String>,
    /// Which events were selected.
    pub selection: Option<(EventState, EventFilter)>,
    /// How many events it was done to. At the begin of an operation: how many were selected. Of a prune: how
    /// many subscriptions, declarations or schedules were removed. `None` where that is not known, such as of
    /// a purge that runs, or was cut off, and where nothing is counted.
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
            application: None,
            subject: None,
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

impl AuditEntry {
    /// What it was done to, in words, if that is neither a queue nor its handlers and events: `the schedule
    /// sweep`, `the table public.users`.
    #[must_use]
    pub fn thing(&self) -> Option<String> {
        if let Some(schedule) = &self.schedule {
            return Some(format!("the schedule {schedule}"));
        }

        // Both stand in every entry of these actions.
        let app = self.application.as_deref().unwrap_or_default();
        let subject = self.subject.as_deref().unwrap_or_default();
        Some(match self.action {
            AuditAction::Subscribe | AuditAction::Unsubscribe => {
                format!("the subscription to {subject} of {app}")
            }
            AuditAction::Forget => format!("what {app} declared of {subject}"),
            AuditAction::Prune => format!("what {app} no longer has"),
            AuditAction::Capture | AuditAction::EndCapture => format!("the table {subject}"),
            AuditAction::Replay | AuditAction::ForgetReplay => format!("the replay {subject}"),
            AuditAction::Publish => format!("a new event of the type {subject}"),
            AuditAction::Partition => format!("its partitions, {subject}"),
            _ => return None,
        })
    }
}

/// A part of the audit trail to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRequest {
    /// Only what was done in this queue.
    pub queue: Option<QueueName>,
    /// Only what this one did: the name as a whole.
    pub by: Option<String>,
    /// Only such acts.
    pub action: Option<AuditAction>,
    /// Only what was done at this time or later, by the engine's clock.
    pub since: Option<DateTime<Utc>>,
    /// Only what was done before this time.
    pub until: Option<DateTime<Utc>>,
    /// Where the page before this one ended; `None` for the newest entries.
    pub after: Option<PageCursor>,
    /// How many entries to return at most; at least 1.
    pub limit: usize,
}

impl Default for AuditRequest {
    fn default() -> Self {
        Self {
            queue: None,
            by: None,
            action: None,
            since: None,
            until: None,
            after: None,
            limit: 50,
        }
    }
}

impl AuditRequest {
    /// Whether an entry is one of those that are asked for, wherever the page begins.
    #[must_use]
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let Self {
            queue,
            by,
            action,
            since,
            until,
            ..
        } = self;
        (queue.is_none() || *queue == entry.queue)
            && by.as_ref().is_none_or(|by| *by == entry.signature.by)
            && action.is_none_or(|action| action == entry.action)
            && since.is_none_or(|since| entry.at >= since)
            && until.is_none_or(|until| entry.at < until)
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
