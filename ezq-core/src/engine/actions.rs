//! What is done to stored events: to one, or to a selection of them as an operation.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::engine::browse::{EventFilter, EventState};
use crate::engine::history::{CopyState, EventCopy};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// What is done to an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventAction {
    /// It is deleted. Nothing of it goes to an archive or a trail.
    Discard,
    /// A dead letter goes back to its queue.
    Redrive,
    /// An event that is due later is due now. Its attempts so far still count.
    RetryNow,
    /// It goes to another queue of the same engine, and begins there with its first attempt.
    Move {
        /// The other queue.
        to: QueueName,
    },
}

impl EventAction {
    /// Its name: `discard`, `redrive`, `retry_now` or `move`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::Redrive => "redrive",
            Self::RetryNow => "retry_now",
            Self::Move { .. } => "move",
        }
    }

    /// The queue to which it moves events, if it does.
    #[must_use]
    pub fn target(&self) -> Option<&QueueName> {
        match self {
            Self::Move { to } => Some(to),
            _ => None,
        }
    }

    /// The action of a name and a target, as a store keeps them.
    #[must_use]
    pub fn from_parts(name: &str, target: Option<QueueName>) -> Option<Self> {
        match (name, target) {
            ("discard", None) => Some(Self::Discard),
            ("redrive", None) => Some(Self::Redrive),
            ("retry_now", None) => Some(Self::RetryNow),
            ("move", Some(to)) => Some(Self::Move { to }),
            _ => None,
        }
    }

    /// Checks whether it fits events in a state.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if it does not.
    pub fn check(&self, state: EventState) -> Result<()> {
        let why = match (self, state) {
            (_, EventState::Leased) => "a worker has leased events: wait until they are settled",
            (Self::Redrive, EventState::Dead) => return Ok(()),
            (Self::Redrive, _) => "only dead letters are redriven: use the state `dead`",
            (Self::RetryNow, EventState::Retrying | EventState::Scheduled) => return Ok(()),
            (Self::RetryNow, EventState::Dead) => "a dead letter is not retried: redrive it",
            (Self::RetryNow, _) => {
                "events that are ready need no retry: use the state `retrying` or `scheduled`"
            }
            _ => return Ok(()),
        };
        let text = format!("`{}` does not fit {state} events: {why}", self.name());
        Err(Error::new(ErrorKind::Configuration, text))
    }

    /// Checks whether it fits one event, whose state is not known beyond that.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if it does not.
    pub fn check_event(&self, event: &EventRef) -> Result<()> {
        let fits = match event {
            EventRef::Dead(_) => *self != Self::RetryNow,
            EventRef::Waiting(_) => *self != Self::Redrive,
        };
        if fits {
            return Ok(());
        }
        let text = format!("`{}` does not fit such an event", self.name());
        Err(Error::new(ErrorKind::Configuration, text))
    }

    /// Checks whether it fits events of a queue.
    pub(crate) fn check_queue(&self, queue: &QueueName) -> Result<()> {
        if self.target() != Some(queue) {
            return Ok(());
        }
        let text = format!("events of the queue `{queue}` cannot be moved to that same queue");
        Err(Error::new(ErrorKind::Configuration, text))
    }
}

impl fmt::Display for EventAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move { to } => write!(f, "move to `{to}`"),
            _ => f.write_str(self.name()),
        }
    }
}

/// One stored event: by its id in the queue, or by its id among the dead letters. The two count apart,
/// so a number alone does not tell which is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventRef {
    /// A message of the queue.
    Waiting(MessageId),
    /// A dead letter of the queue.
    Dead(MessageId),
}

impl EventRef {
    /// The id, whichever it is.
    #[must_use]
    pub fn id(&self) -> &MessageId {
        match self {
            Self::Waiting(id) | Self::Dead(id) => id,
        }
    }
}

impl From<&MessageId> for EventRef {
    fn from(id: &MessageId) -> Self {
        Self::Waiting(id.clone())
    }
}

impl From<&EventCopy> for EventRef {
    fn from(copy: &EventCopy) -> Self {
        match &copy.state {
            CopyState::Dead { letter, .. } => Self::Dead(letter.clone()),
            _ => Self::Waiting(copy.message_id.clone()),
        }
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActOutcome {
    /// It was done.
    Done,
    /// There is no such event.
    Missing,
    /// A worker holds the event. Nothing was done.
    Leased,
}

/// Who orders something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// Who.
    pub by: String,
    /// Why, if a reason was given.
    pub reason: Option<String>,
}

impl Signature {
    /// A signature without a reason.
    #[must_use]
    pub fn new(by: impl Into<String>) -> Self {
        Self {
            by: by.into(),
            reason: None,
        }
    }

    /// Sets why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// The events that an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// The queue.
    pub queue: QueueName,
    /// The state of the events. One that has left it when its turn comes is skipped.
    pub state: EventState,
    /// What the events must be like.
    pub filter: EventFilter,
    /// The last event that may be among them, by id. `None` means the newest when the operation starts.
    pub last: Option<MessageId>,
}

impl Selection {
    /// All events of a queue in a state.
    #[must_use]
    pub fn new(queue: QueueName, state: EventState) -> Self {
        Self {
            queue,
            state,
            filter: EventFilter::all(),
            last: None,
        }
    }
}

/// What an operation would act on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preview {
    /// How many events there are, counted in full.
    pub count: u64,
    /// The newest event of the queue, or of its dead letters, when they were counted. An operation with
    /// this as its [last](Selection::last) touches nothing newer. `None` if there is nothing.
    pub last: Option<MessageId>,
}

impl Preview {
    /// A preview.
    #[must_use]
    pub fn new(count: u64, last: Option<MessageId>) -> Self {
        Self { count, last }
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationStatus {
    /// It has steps to go. Whether a process takes them is not known to the store.
    Running,
    /// Somebody stopped it. It can be resumed.
    Stopped,
    /// It has reached its last event.
    Ended,
}

impl OperationStatus {
    /// Its name: `running`, `stopped` or `ended`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for OperationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An operation, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What is done.
    pub action: EventAction,
    /// To which events.
    pub selection: Selection,
    /// Who ordered it, and why.
    pub signature: Signature,
    /// How far it is.
    pub status: OperationStatus,
    /// The last event that it has reached, by id.
    pub position: Option<MessageId>,
    /// How many events it was done to.
    pub done: u64,
    /// How many events were selected and had left their state when they were locked.
    pub skipped: u64,
    /// How many events the store refused to change. They are as they were.
    pub failed: u64,
    /// How many events were selected when it began. `None` if counting them took too long.
    pub total: Option<u64>,
    /// When it began, by the engine's clock.
    pub began_at: DateTime<Utc>,
    /// When its last step ended, or it was stopped or resumed.
    pub moved_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Operation {
    /// An operation that begins.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        action: EventAction,
        selection: Selection,
        signature: Signature,
        began_at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: id.into(),
            action,
            selection,
            signature,
            status: OperationStatus::Running,
            position: None,
            done: 0,
            skipped: 0,
            failed: 0,
            total: None,
            began_at,
            moved_at: began_at,
            ended_at: None,
        }
    }

    /// Whether it has steps to go, and may take them.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status == OperationStatus::Running
    }

    /// How many events it has looked at and selected.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.done
            .saturating_add(self.skipped)
            .saturating_add(self.failed)
    }

    /// The error for an id that no operation has.
    #[must_use]
    pub fn missing(id: &str) -> Error {
        let text = format!(
            "there is no operation `{}`: `operations().list()` tells all",
            id.escape_debug()
        );
        Error::new(ErrorKind::OperationMissing, text)
    }
}
