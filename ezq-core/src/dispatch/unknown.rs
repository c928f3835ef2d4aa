//! What no handler here takes, or no codec here reads: another process may, in a rolling deployment,
//! so it is tried again under a policy of its own before it is given up.

use std::collections::BTreeSet;
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use tracing::info;

use crate::config::UnknownTypes;
use crate::dispatch::dispatcher::{Dispatcher, Work, log_dead_letter, mark, next_attempt, pause};
use crate::dispatch::registry::{place, takes};
use crate::engine::{MessageId, Settle};
use crate::error::Error;
use crate::event::envelope::Envelope;
use crate::logging::warn;
use crate::message::headers::{CAUSATION_ID, Headers};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{
    HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
use crate::text::bounded;

/// Under this name a message keeps how often it was not known.
const UNKNOWN: &str = "ezq::unknown";

/// A message that is not known here.
struct Stranger<'a> {
    queue: &'a QueueName,
    message_id: &'a MessageId,
    envelope: Option<&'a Envelope>,
    headers: &'a Headers,
}

/// Why no handler took what came, by queue: kept for the test kit only, once it asks.
#[derive(Debug, Default)]
pub(crate) struct Strangers(OnceLock<Mutex<BTreeSet<(QueueName, String)>>>);

impl Strangers {
    /// Keeps them from here on.
    pub(crate) fn keep(&self) {
        self.0.get_or_init(Mutex::default);
    }

    fn add(&self, queue: &QueueName, why: &str) {
        if let Some(kept) = self.0.get() {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert((queue.clone(), why.to_owned()));
        }
    }

    /// Those of a queue, which are forgotten by that.
    pub(crate) fn take(&self, queue: &QueueName) -> Vec<String> {
        let Some(kept) = self.0.get() else {
            return Vec::new();
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, rest): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut *kept)
            .into_iter()
            .partition(|(of, _)| of == queue);
        *kept = rest;
        taken.into_iter().map(|(_, why)| why).collect()
    }
}

impl Dispatcher {
    /// What becomes of an event that no handler here takes.
    pub(crate) fn unknown(&self, work: &Work) -> Settle {
        let received = &work.received;
        let envelope = Some(&received.envelope);
        let (queue, message_id) = (&received.queue, received.receipt.message_id());
        let stranger = Stranger {
            queue,
            message_id,
            envelope,
            headers: &received.headers,
        };
        let why = self.why_unknown(received.envelope.event_type());
        // What a handler brought forth may be for another application.
        let is_caused = received.headers.value(CAUSATION_ID).is_some();
        if !is_caused && self.config.unknown_types != UnknownTypes::Skip {
            self.strangers.add(queue, &why);
        }
        self.put_off(&stranger, ReasonKind::UnknownType, &why)
    }

    /// Why nothing here takes a type: the queue may be the wrong one.
    fn why_unknown(&self, event_type: &str) -> String {
        let takers = self
            .registry
            .handlers()
            .iter()
            .filter(|handler| takes(handler, event_type));
        let places: Vec<String> = takers.map(|handler| place(handler)).collect();
        if places.is_empty() {
            static HINT: Once = Once::new();
            HINT.call_once(|| {
                warn!(
                    event_type,
                    "no handler was found for this type: those of a library are found only where \
                     the program names it, as in `use my_handlers as _;`"
                );
            });
            return format!("no handler here takes `{event_type}`");
        }
        let places = places.join(" and ");
        format!(
            "no handler of this queue takes `{event_type}`, but {places} does: publish it there"
        )
    }

    /// What becomes of a message whose codec is not known here.
    pub(crate) fn unread(
        &self,
        queue: &QueueName,
        message_id: &MessageId,
        headers: &Headers,
        error: &Error,
    ) -> Settle {
        let stranger = Stranger {
            queue,
            message_id,
            envelope: None,
            headers,
        };
        self.put_off(&stranger, ReasonKind::Undecodable, &error.to_string())
    }

    fn put_off(&self, stranger: &Stranger<'_>, kind: ReasonKind, why: &str) -> Settle {
        let Stranger {
            queue,
            message_id,
            envelope,
            headers,
        } = stranger;
        let event_id = envelope.map(Envelope::id);
        let event_type = envelope.map(Envelope::event_type);
        let name = HandlerName::from(UNKNOWN);
        let why = bounded(why);
        let attempts = next_attempt(Progress::from_headers(headers).0.get(&name));
        let policy = match self.config.unknown_types {
            UnknownTypes::Skip => {
                info!(%queue, %message_id, event_id, event_type, why, "event skipped");
                return Settle::Ack {
                    outgoing: Vec::new(),
                };
            }
            UnknownTypes::Retry(policy) if attempts < policy.max_attempts => policy,
            _ => {
                let reason = Reason {
                    kind,
                    handler: None,
                    error: why,
                    attempts,
                };
                log_dead_letter(queue, message_id, *envelope, &reason);
                let (progress, outgoing) = (Progress::default(), Vec::new());
                return Settle::DeadLetter {
                    reason,
                    progress,
                    outgoing,
                };
            }
        };
        let after: Duration = pause(policy.backoff, attempts, &why);
        warn!(%queue, %message_id, event_id, event_type, attempts, retry_in = ?after, "{why}");
        let mark = HandlerMark {
            attempts,
            ..mark(HandlerState::Retry)
        };
        let progress = Progress([(name, mark)].into());
        Settle::Retry {
            after,
            progress,
            outgoing: Vec::new(),
        }
    }
}
