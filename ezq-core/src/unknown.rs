//! What no handler here takes, or no codec here reads: another process may, in a rolling deployment,
//! so it is tried again under a policy of its own before it is given up.

use std::sync::Once;
use std::time::Duration;

use tracing::info;

use crate::attempt::bounded;
use crate::config::UnknownTypes;
use crate::consumer::place;
use crate::dispatcher::{Dispatcher, Work, log_dead_letter, mark, next_attempt, pause};
use crate::engine::MessageId;
use crate::headers::Headers;
use crate::logging::warn;
use crate::registry::takes;
use crate::{
    Envelope, Error, HandlerMark, HandlerName, HandlerState, Progress, QueueName, Reason,
    ReasonKind, Settle,
};

/// Under this name a message keeps how often it was not known.
const UNKNOWN: &str = "ezq::unknown";

/// A message that is not known here.
struct Stranger<'a> {
    queue: &'a QueueName,
    message_id: &'a MessageId,
    envelope: Option<&'a Envelope>,
    headers: &'a Headers,
}

impl Dispatcher {
    /// What becomes of an event that no handler here takes.
    pub(crate) fn unknown(&self, work: &Work) -> Settle {
        let received = &work.received;
        let envelope = Some(&received.envelope);
        let (queue, message_id) = (&received.queue, received.receipt.message_id());
        let stranger = Stranger { queue, message_id, envelope, headers: &received.headers };
        let why = self.why_unknown(received.envelope.event_type());
        self.put_off(&stranger, ReasonKind::UnknownType, &why)
    }

    /// Why nothing here takes a type: the queue may be the wrong one.
    fn why_unknown(&self, event_type: &str) -> String {
        let takers = self.registry.handlers().iter().filter(|handler| takes(handler, event_type));
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
        let stranger = Stranger { queue, message_id, envelope: None, headers };
        self.put_off(&stranger, ReasonKind::Undecodable, &error.to_string())
    }

    fn put_off(&self, stranger: &Stranger<'_>, kind: ReasonKind, why: &str) -> Settle {
        let Stranger { queue, message_id, envelope, headers } = stranger;
        let event_id = envelope.map(Envelope::id);
        let event_type = envelope.map(Envelope::event_type);
        let name = HandlerName::from(UNKNOWN);
        let why = bounded(why);
        let attempts = next_attempt(Progress::from_headers(headers).0.get(&name));
        let policy = match self.config.unknown_types {
            UnknownTypes::Skip => {
                info!(%queue, %message_id, event_id, event_type, why, "event skipped");
                return Settle::Ack { outgoing: Vec::new() };
            }
            UnknownTypes::Retry(policy) if attempts < policy.max_attempts => policy,
            _ => {
                let reason = Reason { kind, handler: None, error: why, attempts };
                log_dead_letter(queue, message_id, *envelope, &reason);
                let (progress, outgoing) = (Progress::default(), Vec::new());
                return Settle::DeadLetter { reason, progress, outgoing };
            }
        };
        let after: Duration = pause(policy.backoff, attempts, &why);
        warn!(%queue, %message_id, event_id, event_type, attempts, retry_in = ?after, "{why}");
        let mark = HandlerMark { attempts, ..mark(HandlerState::Retry) };
        let progress = Progress([(name, mark)].into());
        Settle::Retry { after, progress, outgoing: Vec::new() }
    }
}
