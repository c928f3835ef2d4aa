//! Notices of what becomes of events, for hooks and whoever subscribes: told after the fact, never
//! waited for.
//!
//! Invariant: nothing here changes what becomes of an event. A notice is put into a bounded buffer;
//! hooks run on a thread of their own, behind it. Whoever is too slow misses notices, and is told how
//! many. While nobody listens, nothing is made: one look at a cell says so.

use crate::error::error_chain;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, broadcast::error::TryRecvError};

use crate::delivery::received::Received;
use crate::engine::history::names;
use crate::engine::{Delivery, MessageId, Outgoing, Settle};
use crate::error::{Error, ErrorKind, Result};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason};
use crate::text::panic_text;

/// How many notices wait for whoever listens, before the oldest are dropped.
pub const NOTICES_KEPT: usize = 1024;
/// How long closing waits for hooks.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something became of an event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Notice {
    /// When, on this process's clock.
    pub at: DateTime<Utc>,
    /// The event's queue.
    pub queue: QueueName,
    /// The event's id; `None` if its message could not be read, or has none before it is stored, as
    /// in the flat form.
    pub event_id: Option<String>,
    /// The event's type; `None` if its message could not be read.
    pub event_type: Option<String>,
    /// What.
    pub kind: NoticeKind,
}

/// What became of an event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NoticeKind {
    /// It is valid and about to be stored: published, or returned by a handler. What becomes of it
    /// is told where this process learns that.
    Publishing,
    /// It is stored, durably: after the commit. Of an event in a caller's own transaction only
    /// [`App::confirm`](crate::App::confirm) tells. Of a broadcast each copy is told, a queue that is missing as
    /// [`PublishFailed`](Self::PublishFailed); but nothing of one that went out with a handler's
    /// transaction, or that failed as a whole, since no queue is known then.
    Published {
        /// Where; [`MessageId::Pending`] for one that went out with a handler's acknowledgement.
        message_id: MessageId,
        /// It was there already, by its dedupe key.
        is_duplicate: bool,
    },
    /// It is not known to be stored.
    PublishFailed {
        /// What sort of error it was.
        kind: ErrorKind,
        /// The error.
        error: String,
    },
    /// Its handlers are done, and it is acknowledged.
    Handled {
        /// Its message.
        message_id: MessageId,
    },
    /// It is put off to another attempt.
    Retried {
        /// Its message.
        message_id: MessageId,
        /// How long.
        after: Duration,
        /// The handlers that ran, with their attempts and newest errors.
        progress: Progress,
    },
    /// It is moved to the dead letters.
    DeadLettered {
        /// Its message, as it was.
        message_id: MessageId,
        /// Why.
        reason: Reason,
    },
}

/// A function of the user's that is called with every notice.
pub(crate) type Hook = Box<dyn Fn(&Notice) + Send + Sync>;

#[derive(Clone)]
enum Told {
    Notice(Arc<Notice>),
    /// Everything before it was told, to hooks.
    Flush(Arc<Notify>),
}

/// Where notices go.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    sender: OnceLock<broadcast::Sender<Told>>,
    has_hooks: bool,
    pub(crate) missed: Arc<AtomicU64>,
}

impl Notices {
    /// Begins to call hooks, if there are any.
    pub(crate) fn with(hooks: Vec<Hook>) -> Result<Self> {
        let mut notices = Self::default();
        if hooks.is_empty() {
            return Ok(notices);
        }
        notices.has_hooks = true;
        let (receiver, missed) = (notices.subscribe(), Arc::clone(&notices.missed));
        let begun = std::thread::Builder::new()
            .name("ezq-hooks".into())
            .spawn(move || call(receiver, &hooks, &missed));
        begun.map_err(|error| {
            Error::new(ErrorKind::Configuration, "no thread for the hooks").with_source(error)
        })?;
        Ok(notices)
    }

    pub(crate) fn stream(&self) -> NoticeStream {
        NoticeStream {
            receiver: self.subscribe(),
            missed: 0,
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.sender
            .get_or_init(|| broadcast::Sender::new(NOTICES_KEPT))
            .subscribe()
    }

    /// Whether anyone listens: what costs something to tell is to be told only then.
    pub(crate) fn are_heard(&self) -> bool {
        self.sender
            .get()
            .is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// The events to tell of once they are stored; none while nobody listens.
    pub(crate) fn copy_if_heard(&self, events: &[Outgoing]) -> Vec<Outgoing> {
        if self.are_heard() {
            events.to_vec()
        } else {
            Vec::new()
        }
    }

    fn tell(
        &self,
        queue: &QueueName,
        event_id: Option<&str>,
        event_type: Option<&str>,
        kind: NoticeKind,
    ) {
        let Some(sender) = self.sender.get() else {
            return;
        };
        let (queue, at) = (queue.clone(), Utc::now());
        let (event_id, event_type) = (event_id.map(str::to_owned), event_type.map(str::to_owned));
        let notice = Notice {
            at,
            queue,
            event_id,
            event_type,
            kind,
        };
        // Nobody may be listening any more.
        let _ = sender.send(Told::Notice(Arc::new(notice)));
    }

    /// An event is about to be stored.
    pub(crate) fn publishing(&self, queue: &QueueName, event_id: &str, event_type: &str) {
        if self.are_heard() {
            let kind = NoticeKind::Publishing;
            self.tell(queue, Some(event_id), Some(event_type), kind);
        }
    }

    /// An event was published under an id, as a duplicate or not; or it was not published.
    pub(crate) fn published(
        &self,
        queue: &QueueName,
        (event_id, event_type): (&str, &str),
        stored: Result<(&MessageId, bool), &Error>,
    ) {
        if !self.are_heard() {
            return;
        }
        let kind = match stored {
            Ok((message_id, is_duplicate)) => NoticeKind::Published {
                message_id: message_id.clone(),
                is_duplicate,
            },
            Err(error) => NoticeKind::PublishFailed {
                kind: error.kind(),
                error: error_chain(error),
            },
        };
        self.tell(queue, Some(event_id), Some(event_type), kind);
    }

    /// Events went out with what a handler did.
    pub(crate) fn went_out(&self, events: &[Outgoing]) {
        if events.is_empty() || !self.are_heard() {
            return;
        }
        events
            .iter()
            .for_each(|event| self.stored(event, &MessageId::Pending));
    }

    /// A message was stored, under an id.
    pub(crate) fn stored(&self, message: &Outgoing, id: &MessageId) {
        if !self.are_heard() {
            return;
        }
        let Outgoing {
            queue,
            body,
            headers,
            ..
        } = message;
        let (event_id, event_type) = names(body, headers);
        let kind = NoticeKind::Published {
            message_id: id.clone(),
            is_duplicate: false,
        };
        self.tell(queue, event_id.as_deref(), event_type.as_deref(), kind);
    }

    /// A delivery is done and acknowledged.
    pub(crate) fn handled(&self, received: &Received) {
        if self.are_heard() {
            let message_id = received.receipt.message_id().clone();
            self.of(
                &received.queue,
                Some(received),
                NoticeKind::Handled { message_id },
            );
        }
    }

    /// A settlement was made.
    pub(crate) fn settled(
        &self,
        queue: &QueueName,
        message_id: &MessageId,
        received: Option<&Received>,
        settle: &Settle,
    ) {
        if !self.are_heard() {
            return;
        }
        let message_id = message_id.clone();
        let kind = match settle {
            Settle::Ack { .. } => NoticeKind::Handled { message_id },
            Settle::Retry {
                after, progress, ..
            } => NoticeKind::Retried {
                message_id,
                after: *after,
                progress: progress.clone(),
            },
            Settle::DeadLetter { reason, .. } => NoticeKind::DeadLettered {
                message_id,
                reason: reason.clone(),
            },
            Settle::Release => return,
        };
        self.of(queue, received, kind);
        self.went_out(settle.outgoing());
    }

    /// An operator moved a message to the dead letters.
    pub(crate) fn given_up(&self, queue: &QueueName, delivery: &Delivery, reason: Reason) {
        if !self.are_heard() {
            return;
        }
        let (event_id, event_type) = names(&delivery.body, &delivery.headers);
        let message_id = delivery.receipt.message_id().clone();
        let kind = NoticeKind::DeadLettered { message_id, reason };
        self.tell(queue, event_id.as_deref(), event_type.as_deref(), kind);
    }

    fn of(&self, queue: &QueueName, received: Option<&Received>, kind: NoticeKind) {
        let envelope = received.map(|received| &received.envelope);
        let (event_id, event_type) = (envelope.map(|e| e.id()), envelope.map(|e| e.event_type()));
        self.tell(queue, event_id, event_type, kind);
    }

    /// Waits until hooks were told of everything so far, or a second.
    pub(crate) async fn flush(&self) {
        let told = Arc::new(Notify::new());
        let Some(sender) = self.sender.get().filter(|_| self.has_hooks) else {
            return;
        };
        if sender.send(Told::Flush(Arc::clone(&told))).is_ok()
            && tokio::time::timeout(PATIENCE, told.notified())
                .await
                .is_err()
        {
            warn!("hooks are still busy: what they were not told of yet may be missed");
        }
    }
}

/// Calls hooks until no notice can come any more.
fn call(mut receiver: broadcast::Receiver<Told>, hooks: &[Hook], missed: &AtomicU64) {
    loop {
        match receiver.blocking_recv() {
            Ok(Told::Notice(notice)) => {
                for hook in hooks {
                    let called = catch_unwind(AssertUnwindSafe(|| hook(&notice)));
                    if let Err(panic) = called {
                        warn!(panic = panic_text(&*panic), "a hook panicked");
                    }
                }
            }
            Ok(Told::Flush(told)) => told.notify_one(),
            Err(RecvError::Lagged(count)) => {
                missed.fetch_add(count, Ordering::Relaxed);
                warn!(count, "hooks are too slow and missed notices");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Notices as they come; [`App::notices`](crate::App::notices) subscribes.
#[derive(Debug)]
pub struct NoticeStream {
    receiver: broadcast::Receiver<Told>,
    missed: u64,
}

impl NoticeStream {
    /// The next notice; `None` once the application is gone. Of what comes while nobody receives
    /// the newest [`NOTICES_KEPT`] are kept.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Arc<Notice>> {
        loop {
            match self.receiver.recv().await {
                Ok(Told::Notice(notice)) => return Some(notice),
                Ok(Told::Flush(_)) => {}
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next notice if there is one already.
    pub fn try_recv(&mut self) -> Option<Arc<Notice>> {
        loop {
            match self.receiver.try_recv() {
                Ok(Told::Notice(notice)) => return Some(notice),
                Ok(Told::Flush(_)) => {}
                Err(TryRecvError::Lagged(count)) => self.missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// How many notices were dropped so far because this was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
