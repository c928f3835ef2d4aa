//! Settlements that the store refuses for good.

use crate::dispatch::log::log_dead_letter;
use crate::engine::Settle;
use crate::error::{Error, ErrorKind};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::text::bounded;

/// Whether the store refuses this settlement itself.
///
/// A settlement that publishes nothing is refused only for what it contains: a missing right or a
/// missing table fails for all settlements alike.
pub(crate) fn is_refusal(settle: &Settle, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::InvalidEvent | ErrorKind::TooLarge => true,
        // The engine is older than the settlement.
        ErrorKind::Unsupported => true,
        ErrorKind::QueueMissing => false,
        _ => !error.is_transient() && !settle.outgoing().is_empty(),
    }
}

/// The dead letter that a message becomes when its settlement cannot be made. It keeps the handlers'
/// marks.
pub(crate) fn give_up(queue: &QueueName, id: &MessageId, progress: Progress, why: &str) -> Settle {
    let reason = Reason {
        kind: ReasonKind::Fatal,
        handler: None,
        error: bounded(why),
        attempts: 1,
    };
    log_dead_letter(queue, id, None, &reason);

    Settle::DeadLetter {
        reason,
        progress,
        outgoing: Vec::new(),
    }
}
