//! Messages that no handler here takes, or no codec here reads. In a rolling deployment another
//! process may, so they are retried under a policy of their own before they are given up.

use std::sync::Once;

use tracing::info;

use crate::config::UnknownTypes;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::log::log_dead_letter;
use crate::dispatch::registry::{handler_and_queue, takes};
use crate::dispatch::work::Work;
use crate::engine::Settle;
use crate::error::Error;
use crate::event::envelope::Envelope;
use crate::handler::outcome::HandlerError;
use crate::logging::warn;
use crate::message::headers::{CAUSATION_ID, Headers};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{
    HandlerMark, HandlerName, HandlerState, Progress, Reason, ReasonKind,
};
use crate::text::bounded;

/// Under this name a message keeps how often it was unknown.
const UNKNOWN: &str = "ezq::unknown";

/// A message that no handler here takes, or no codec here reads.
struct UnknownMessage<'a> {
    queue: &'a QueueName,
    message_id: &'a MessageId,
    /// `None` if it could not be read.
    envelope: Option<&'a Envelope>,
    headers: &'a Headers,
}

impl Dispatcher {
    /// What becomes of an event that no handler here takes.
    pub(super) fn unknown(&self, work: &Work) -> Settle {
        let received = &work.received;
        let message = UnknownMessage {
            queue: &received.queue,
            message_id: received.receipt.message_id(),
            envelope: Some(&received.envelope),
            headers: &received.headers,
        };
        let why = self.why_unknown(received.envelope.event_type());

        // An event that a handler published may be for another application.
        let is_caused = received.headers.value(CAUSATION_ID).is_some();
        if !is_caused && self.config.unknown_types != UnknownTypes::Skip {
            self.unknown_reasons.add(&received.queue, &why);
        }
        self.put_off(&message, ReasonKind::UnknownType, &HandlerError::retry(why))
    }

    /// Why nothing here takes a type: the queue may be the wrong one.
    fn why_unknown(&self, event_type: &str) -> String {
        let takers = self
            .registry
            .handlers()
            .iter()
            .filter(|handler| takes(handler, event_type));
        let places: Vec<String> = takers.map(|handler| handler_and_queue(handler)).collect();
        if places.is_empty() {
            static HINT: Once = Once::new();
            HINT.call_once(|| {
                warn!(
                    event_type,
                    "no handler was found for this type: a library's handlers are found only if \
                     the program names the library, as in `use my_handlers as _;`"
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
        error: Error,
    ) -> Settle {
        let message = UnknownMessage {
            queue,
            message_id,
            envelope: None,
            headers,
        };
        self.put_off(
            &message,
            ReasonKind::Undecodable,
            &HandlerError::retry(error),
        )
    }

    /// Skips an unknown message, retries it or gives it up, as the configuration says.
    fn put_off(
        &self,
        message: &UnknownMessage<'_>,
        kind: ReasonKind,
        error: &HandlerError,
    ) -> Settle {
        let UnknownMessage {
            queue,
            message_id,
            envelope,
            headers,
        } = message;
        let event_id = envelope.map(Envelope::id);
        let event_type = envelope.map(Envelope::event_type);
        let why = bounded(&error.to_string());

        let name = HandlerName::from(UNKNOWN);
        let attempts = HandlerMark::attempt_after(Progress::from_headers(headers).0.get(&name));
        let policy = match &self.config.unknown_types {
            UnknownTypes::Skip => {
                info!(%queue, %message_id, event_id, event_type, why, "event skipped");
                return Settle::Ack {
                    outgoing: Vec::new(),
                };
            }
            UnknownTypes::Retry(policy) if attempts < policy.max_attempts => policy,
            UnknownTypes::Retry(_) | UnknownTypes::DeadLetter => {
                let reason = Reason {
                    kind,
                    handler: None,
                    error: why,
                    attempts,
                };
                log_dead_letter(queue, message_id, *envelope, &reason);
                return Settle::DeadLetter {
                    reason,
                    progress: Progress::default(),
                    outgoing: Vec::new(),
                };
            }
        };

        let after = policy.backoff.next_delay(attempts, error, queue);
        warn!(%queue, %message_id, event_id, event_type, attempts, retry_in = ?after, "{why}");
        let mark = HandlerMark {
            attempts,
            ..HandlerMark::new(HandlerState::Retry)
        };
        Settle::Retry {
            after,
            progress: Progress::of_one(name, mark),
            outgoing: Vec::new(),
        }
    }
}
