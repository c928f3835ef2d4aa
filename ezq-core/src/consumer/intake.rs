//! Taking deliveries in: each is read once, in the order of the queue. What cannot be read becomes a
//! dead letter.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::Span;

use crate::clock::EngineClock;
use crate::codec::codecs::Codecs;
use crate::codec::wire::Origin;
use crate::consumer::pending::PendingDelivery;
use crate::consumer::scope::RunScope;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::dispatch::admission::Admission;
use crate::dispatch::log::log_dead_letter;
use crate::dispatch::work::Work;
use crate::engine::{Delivery, Position, Receipt, Settle};
use crate::error::{Error, Result, error_chain};
use crate::event::{Control, End, Interrupt, is_control};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::observe::report::Disposition;
use crate::text::bounded;

/// Reads a delivery, and the control event that it may be. Settles it and returns `None` if no
/// handler is to see it.
pub(crate) fn take_in(
    scope: &RunScope,
    delivery: Delivery,
    position: Position,
    lease: Arc<Lease>,
) -> Option<(PendingDelivery, Option<Control>)> {
    let deliveries = delivery.unsettled_deliveries();
    if deliveries > scope.app.config.max_deliveries {
        let reason = Reason {
            kind: ReasonKind::MaxDeliveries,
            handler: None,
            error: "delivered too often without being settled: it may kill its workers".into(),
            attempts: deliveries,
        };
        bury(scope, delivery.receipt, reason);
        return None;
    }

    let receipt = delivery.receipt.clone();
    let queue = &scope.settings.queue;
    let codecs = &scope.app.services.codecs;

    // Its codec may be known to another version of the application, so the policy for unknown types
    // decides.
    if let Some(error) = codecs.unknown(&delivery.headers) {
        let dispatcher = &scope.app.dispatcher;
        let settle = dispatcher.unread(queue, receipt.message_id(), &delivery.headers, &error);
        let disposition = Disposition::of(&settle);
        scope.settle_unhandled(receipt, settle, disposition);
        return None;
    }

    let read = read(codecs, queue, delivery, lease, &scope.admission)
        .and_then(|work| control(&work.received).map(|control| (work, control)));
    let (work, control) = match read {
        Ok(read) => read,
        Err(error) => {
            bury_undecodable(scope, receipt, &error);
            return None;
        }
    };
    let pending = PendingDelivery {
        receipt,
        position,
        work,
        lane: None,
    };
    Some((pending, control))
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
pub(crate) fn read(
    codecs: &Codecs,
    queue: &QueueName,
    delivery: Delivery,
    lease: Arc<Lease>,
    admission: &Arc<Admission>,
) -> Result<Work> {
    let receipt = delivery.receipt;
    let origin = Origin {
        queue,
        message_id: receipt.message_id(),
        enqueued_at: delivery.enqueued_at,
        headers: &delivery.headers,
    };
    let envelope = codecs.read(&delivery.body, origin)?;

    let received = Received {
        envelope,
        queue: queue.clone(),
        receipt,
        headers: delivery.headers,
        deliveries: delivery.deliveries,
        enqueued_at: delivery.enqueued_at,
        lease,
        parent: Span::none(),
    };
    let clock = EngineClock {
        at: delivery.leased_at,
        read: Instant::now(),
    };
    Ok(Work {
        received: Arc::new(received),
        clock,
        admission: Arc::clone(admission),
        suspect: Mutex::default(),
    })
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
