//! Notices: what happens to events, for hooks and subscribers.
//!
//! Invariant: nothing here changes the fate of an event. A notice goes into a bounded buffer after
//! the fact; hooks run behind it, on a thread of their own. A listener that is too slow misses
//! notices and learns how many. While nobody listens no notice is made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;

use crate::delivery::received::Received;
use crate::engine::names::EventNames;
use crate::engine::{Delivery, Outgoing, Settle};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason};
use crate::text::panic_text;

/// How many notices wait for a listener before the oldest are dropped.
pub const NOTICES_KEPT: usize = 1024;
/// How long closing an application waits for hooks.
const PATIENCE: Duration = Duration::from_secs(1);

/// What happened to an event, where and when.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Notice {
    /// When it happened, on this process's clock.
    pub at: DateTime<Utc>,
    /// The event's queue.
    pub queue: QueueName,
    /// The event's id. `None` if its message could not be read, or if it gets its id only when it is
    /// stored, as in the flat form.
    pub event_id: Option<String>,
    /// The event's type; `None` if its message could not be read.
    pub event_type: Option<String>,
    /// What happened.
    pub kind: NoticeKind,
}

/// What happened to an event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NoticeKind {
    /// It is valid and about to be stored: published, or returned by a handler. Another notice tells
    /// the result, if this process learns it.
    Publishing,
    /// It is stored durably: the transaction is committed.
    ///
    /// - An event in a caller's own transaction: only [`App::confirm`](crate::app::App::confirm)
    ///   gives this notice.
    /// - A broadcast: each copy has a notice; a missing queue is a
    ///   [`PublishFailed`](Self::PublishFailed). There is none if the broadcast went out with a
    ///   handler's transaction or failed as a whole, since its queues are not known then.
    Published {
        /// The id of the stored message; [`MessageId::Pending`] if it went out with a handler's
        /// acknowledgement.
        message_id: MessageId,
        /// Its dedupe key was taken, so nothing new was stored.
        is_duplicate: bool,
    },
    /// It is not stored, or the answer was lost.
    PublishFailed {
        /// The kind of the error.
        kind: ErrorKind,
        /// The error and its sources.
        error: String,
    },
    /// Its handlers are done and it is acknowledged.
    Handled {
        /// Its message.
        message_id: MessageId,
    },
    /// It comes again for another attempt.
    Retried {
        /// Its message.
        message_id: MessageId,
        /// The time until then.
        after: Duration,
        /// The handlers that ran, with their attempts and newest errors.
        progress: Progress,
    },
    /// An operator cancelled it, and it is deleted.
    Discarded {
        /// Its message.
        message_id: MessageId,
    },
    /// It is moved to the dead letters.
    DeadLettered {
        /// Its message before it was moved.
        message_id: MessageId,
        /// Why.
        reason: Reason,
    },
}

impl NoticeKind {
    /// What a settlement is to an event. `None` if it is as if it had never been delivered.
    fn of(settle: &Settle, message_id: &MessageId) -> Option<Self> {
        let message_id = message_id.clone();
        Some(match settle {
            Settle::Ack { .. } => Self::Handled { message_id },
            Settle::Release => return None,
            Settle::Retry { progress, .. } if progress.is_only_held() => return None,
            Settle::Retry {
                after, progress, ..
            } => Self::Retried {
                message_id,
                after: *after,
                progress: progress.clone(),
            },
            Settle::Discard => Self::Discarded { message_id },
            Settle::DeadLetter { reason, .. } => Self::DeadLettered {
                message_id,
                reason: reason.clone(),
            },
        })
    }
}

/// A user's function that is called with every notice.
pub(crate) type Hook = Box<dyn Fn(&Notice) + Send + Sync>;

/// What goes through the buffer.
#[derive(Clone)]
pub(crate) enum Entry {
    Notice(Arc<Notice>),
    /// Notified once hooks were called with every notice before it.
    Flush(Arc<Notify>),
}

/// The notices of one application.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Made with the first listener.
    sender: OnceLock<broadcast::Sender<Entry>>,
    has_hooks: bool,
    /// How many notices hooks have missed.
    pub(crate) missed: Arc<AtomicU64>,
}

impl Notices {
    /// Starts the thread that calls hooks, if there are any.
    pub(crate) fn with(hooks: Vec<Hook>) -> Result<Self> {
        let mut notices = Self::default();
        if hooks.is_empty() {
            return Ok(notices);
        }

        notices.has_hooks = true;
        let receiver = notices.subscribe();
        let missed = Arc::clone(&notices.missed);
        // A thread, not a task: a hook may block.
        std::thread::Builder::new()
            .name("ezq-hooks".into())
            .spawn(move || call_hooks(receiver, &hooks, &missed))
            .map_err(|error| {
                Error::new(
                    ErrorKind::Configuration,
                    "cannot start the thread of the hooks",
                )
                .with_source(error)
            })?;
        Ok(notices)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Entry> {
        self.sender
            .get_or_init(|| broadcast::Sender::new(NOTICES_KEPT))
            .subscribe()
    }

    /// Whether anyone listens. What costs something to prepare is prepared only then.
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

    fn send(
        &self,
        queue: &QueueName,
        event_id: Option<&str>,
        event_type: Option<&str>,
        kind: NoticeKind,
    ) {
        let Some(sender) = self.sender.get() else {
            return;
        };

        let notice = Notice {
            at: Utc::now(),
            queue: queue.clone(),
            event_id: event_id.map(str::to_owned),
            event_type: event_type.map(str::to_owned),
            kind,
        };
        // An error means that the last listener has gone.
        let _ = sender.send(Entry::Notice(Arc::new(notice)));
    }

    /// An event is about to be stored.
    pub(crate) fn publishing(&self, queue: &QueueName, event_id: &str, event_type: &str) {
        if self.are_heard() {
            let kind = NoticeKind::Publishing;
            self.send(queue, Some(event_id), Some(event_type), kind);
        }
    }

    /// An event was published: under an id, and whether as a duplicate. Or publishing it failed.
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

        self.send(queue, Some(event_id), Some(event_type), kind);
    }

    /// Events were stored by the settlement of a delivery.
    pub(crate) fn went_out(&self, events: &[Outgoing]) {
        if events.is_empty() || !self.are_heard() {
            return;
        }
        for event in events {
            self.stored(event, &MessageId::Pending);
        }
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
        let names = EventNames::of(body, headers);

        let kind = NoticeKind::Published {
            message_id: id.clone(),
            is_duplicate: false,
        };
        self.send(
            queue,
            names.id.as_deref(),
            names.event_type.as_deref(),
            kind,
        );
    }

    /// A delivery is acknowledged.
    pub(crate) fn handled(&self, received: &Received) {
        if self.are_heard() {
            let message_id = received.receipt.message_id().clone();
            let kind = NoticeKind::Handled { message_id };
            self.send_of(&received.queue, Some(received), kind);
        }
    }

    /// A delivery is settled.
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

        if let Some(kind) = NoticeKind::of(settle, message_id) {
            self.send_of(queue, received, kind);
            self.went_out(settle.outgoing());
        }
    }

    /// An operator settled a message that waited.
    pub(crate) fn settled_by_hand(&self, queue: &QueueName, delivery: &Delivery, settle: &Settle) {
        if !self.are_heard() {
            return;
        }
        let Some(kind) = NoticeKind::of(settle, delivery.receipt.message_id()) else {
            return;
        };

        let names = EventNames::of(&delivery.body, &delivery.headers);
        self.send(
            queue,
            names.id.as_deref(),
            names.event_type.as_deref(),
            kind,
        );
    }

    /// Sends a notice of a delivery, with the names of its event if it could be read.
    fn send_of(&self, queue: &QueueName, received: Option<&Received>, kind: NoticeKind) {
        let envelope = received.map(|received| &received.envelope);
        let event_id = envelope.map(|envelope| envelope.id());
        let event_type = envelope.map(|envelope| envelope.event_type());
        self.send(queue, event_id, event_type, kind);
    }

    /// Waits until hooks were called with everything so far, for a second at most.
    pub(crate) async fn flush(&self) {
        let Some(sender) = self.sender.get().filter(|_| self.has_hooks) else {
            return;
        };

        let flushed = Arc::new(Notify::new());
        if sender.send(Entry::Flush(Arc::clone(&flushed))).is_err() {
            return;
        }
        if timeout(PATIENCE, flushed.notified()).await.is_err() {
            warn!("hooks are still busy: they may miss the last notices");
        }
    }
}

/// Calls hooks until no notice can come any more.
fn call_hooks(mut receiver: broadcast::Receiver<Entry>, hooks: &[Hook], missed: &AtomicU64) {
    loop {
        match receiver.blocking_recv() {
            Ok(Entry::Notice(notice)) => {
                // One hook that panics keeps no other from its notice.
                for hook in hooks {
                    let called = catch_unwind(AssertUnwindSafe(|| hook(&notice)));
                    if let Err(panic) = called {
                        warn!(panic = panic_text(&*panic), "a hook panicked");
                    }
                }
            }

            Ok(Entry::Flush(flushed)) => flushed.notify_one(),
            Err(RecvError::Lagged(count)) => {
                missed.fetch_add(count, Ordering::Relaxed);
                warn!(count, "hooks are too slow and missed notices");
            }
            Err(RecvError::Closed) => return,
        }
    }
}
