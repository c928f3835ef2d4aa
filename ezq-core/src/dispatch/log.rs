//! Lines of the log about a delivery.

use crate::event::envelope::Envelope;
use crate::logging::error;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, Reason};

/// Logs a line with the fields that identify a delivery.
macro_rules! log_delivery {
    ($level:ident, $received:expr, $($rest:tt)+) => {
        $level!(
            queue = %$received.queue,
            message_id = %$received.receipt.message_id(),
            event_id = $received.envelope.id(),
            event_type = $received.envelope.event_type(),
            $($rest)+
        )
    };
}

pub(super) use log_delivery;

/// Logs that a message is given up, once for each.
pub(crate) fn log_dead_letter(
    queue: &QueueName,
    message_id: &MessageId,
    envelope: Option<&Envelope>,
    reason: &Reason,
) {
    error!(
        %queue,
        %message_id,
        event_id = envelope.map(Envelope::id),
        event_type = envelope.map(Envelope::event_type),
        reason = %reason.kind,
        handler = reason.handler.as_ref().map(HandlerName::as_str),
        attempts = reason.attempts,
        error = %reason.error,
        "event moves to the dead letters"
    );
}
