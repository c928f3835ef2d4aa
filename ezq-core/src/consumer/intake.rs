//! Taking deliveries in: each is read once, in the order of the queue. What cannot be read becomes a
//! dead letter.

use std::mem::take;
use std::sync::Arc;

use crate::codec::codecs::Codecs;
use crate::codec::wire::{Origin, ReadEvent};
use crate::consumer::scope::RunScope;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::dispatch::log::log_dead_letter;
use crate::dispatch::work::Work;
use crate::engine::{Delivery, Receipt, Settle};
use crate::error::{Error, Result, error_chain};
use crate::event::envelope::Envelope;
use crate::event::{Control, End, Interrupt, is_control};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::observe::report::Disposition;
use crate::text::bounded;

/// Reads a delivery, and the control event that it may be. Settles it and returns `None` if no
/// handler is to see it.
pub(crate) fn take_in(
    scope: &RunScope,
    mut delivery: Delivery,
    lease: Arc<Lease>,
) -> Option<(Work, Option<Control>)> {
    let deliveries = delivery.unsettled_deliveries();
    if deliveries > scope.app.config.max_deliveries {
        let reason = Reason {
            kind: ReasonKind::MaxDeliveries,
            handler: None,
            error: "delivered too often without being settled: it may crash its workers".into(),
            attempts: deliveries,
        };
        bury(scope, delivery.receipt, reason);
        return None;
    }

    let queue = &scope.settings.queue;
    let codecs = &scope.app.services.codecs;

    // Its codec may be known to another version of the application, so the policy for unknown types
    // decides.
    if let Some(error) = codecs.unknown(&delivery.headers) {
        let dispatcher = &scope.app.dispatcher;
        let message_id = delivery.receipt.message_id();
        let settle = dispatcher.unread(queue, message_id, &delivery.headers, error);
        let disposition = Disposition::of(&settle);
        scope.settle_unhandled(delivery.receipt, settle, disposition);
        return None;
    }

    let ReadEvent {
        envelope,
        is_structured,
    } = match codecs.read_event(&delivery.body, origin(queue, &delivery)) {
        Ok(read) => read,
        Err(error) => {
            bury_undecodable(scope, delivery.receipt, &error);
            return None;
        }
    };
    let body = (is_structured && scope.keeps_bodies).then(|| Arc::new(take(&mut delivery.body)));
    let mut received = Received::new(delivery, envelope, queue.clone(), lease);
    received.body = body;
    let control = match control(&received) {
        Ok(control) => control,
        Err(error) => {
            bury_undecodable(scope, received.receipt, &error);
            return None;
        }
    };
    Some((Work::new(received, Arc::clone(&scope.admission)), control))
}

fn bury_undecodable(scope: &RunScope, receipt: Receipt, error: &Error) {
    let reason = Reason {
        kind: ReasonKind::Undecodable,
        handler: None,
        error: bounded(&error_chain(error)),
        attempts: 1,
    };
    bury(scope, receipt, reason);
}

/// Moves a delivery to the dead letters before a handler ran.
fn bury(scope: &RunScope, receipt: Receipt, reason: Reason) {
    log_dead_letter(&scope.settings.queue, receipt.message_id(), None, &reason);

    let settle = Settle::DeadLetter {
        reason,
        progress: Progress::default(),
        outgoing: Vec::new(),
    };
    scope.settle_unhandled(receipt, settle, Disposition::DeadLettered);
}

/// Reads the body of a delivery.
pub(crate) fn read(codecs: &Codecs, queue: &QueueName, delivery: &Delivery) -> Result<Envelope> {
    codecs.read(&delivery.body, origin(queue, delivery))
}

fn origin<'a>(queue: &'a QueueName, delivery: &'a Delivery) -> Origin<'a> {
    Origin {
        queue,
        message_id: delivery.receipt.message_id(),
        enqueued_at: delivery.enqueued_at,
        headers: &delivery.headers,
    }
}

/// The control event that a delivery is, if it is one.
fn control(received: &Received) -> Result<Option<Control>> {
    if !is_control(received.envelope.event_type()) {
        return Ok(None);
    }

    if received.is::<End>() {
        let end = received.envelope.decode()?;
        return Ok(Some(Control::End(end)));
    }
    received.envelope.decode::<Interrupt>()?;
    Ok(Some(Control::Interrupt))
}
