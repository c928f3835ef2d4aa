//! Taking deliveries in: read once, in the order of the queue; what cannot be read is buried.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::{Span, info};

use crate::clock::EngineClock;
use crate::codec::codecs::Codecs;
use crate::codec::wire::Origin;
use crate::consumer::run::{Item, Phase, Run};
use crate::consumer::workload::lanes::Entered;
use crate::delivery::lease::Lease;
use crate::delivery::received::Received;
use crate::dispatch::dispatcher::{Work, log_dead_letter};
use crate::dispatch::slots::Slots;
use crate::engine::{Delivery, Receipt, Settle};
use crate::error::{Error, Result, error_chain};
use crate::event::{Control, End, Interrupt, is_control};
use crate::message::queue_name::QueueName;
use crate::message::settlement::{Progress, Reason, ReasonKind};
use crate::observe::report::Tally;
use crate::text::bounded;

impl Run {
    /// Takes in one delivery, in the order of the queue.
    pub(crate) fn accept(&mut self, delivery: Delivery, sent: Instant) {
        self.learn_beginning(delivery.leased_at, sent);
        if self.leases.go_on(&delivery, sent) {
            let (queue, message_id) = (&self.settings.queue, delivery.receipt.message_id());
            return info!(%queue, %message_id, "a lease had ended by the store's clock: what is held here goes on");
        }
        let position = delivery.position();
        let lease = Arc::new(Lease::new(sent, self.settings.lease));
        self.leases.hold(&delivery, &lease);
        let stops_here = self
            .control
            .as_ref()
            .is_some_and(|(item, _)| position > item.position);
        if stops_here || matches!(self.phase, Phase::Finishing | Phase::Cancelling) {
            return self.send(delivery.receipt, Settle::Release, Tally::Returned);
        }
        let deliveries = delivery.unsettled_deliveries();
        if deliveries > self.app.config.max_deliveries {
            let reason = Reason {
                kind: ReasonKind::MaxDeliveries,
                handler: None,
                error: "delivered too often without being settled: it may kill its workers".into(),
                attempts: deliveries,
            };
            return self.bury(delivery.receipt, reason);
        }
        let receipt = delivery.receipt.clone();
        let (queue, codecs) = (&self.settings.queue, &self.app.services.codecs);
        if let Some(error) = codecs.unknown(&delivery.headers) {
            let (id, headers) = (receipt.message_id(), &delivery.headers);
            let settle = self.app.dispatcher.unread(queue, id, headers, &error);
            let tally = Tally::of(&settle);
            return self.send(receipt, settle, tally);
        }
        let work = match read(codecs, queue, delivery, lease, &self.slots) {
            Ok(work) => work,
            Err(error) => return self.bury_undecodable(receipt, &error),
        };
        let control = control(&work.received);
        let item = Item {
            receipt,
            position,
            work,
            turn: None,
        };
        match control {
            Ok(None) => self.line_up(item),
            Ok(Some(control)) => self.meet(item, control),
            Err(error) => self.bury_undecodable(item.receipt, &error),
        }
    }

    /// Puts a delivery where it waits for its turn.
    fn line_up(&mut self, item: Item) {
        let received = Arc::clone(&item.work.received);
        let key = received.headers.key();
        if self.passes_over(&item, key.as_deref()) {
            return self.send(item.receipt, Settle::Release, Tally::Returned);
        }
        let Some(key) = key else {
            return self.buffer.push_back(item);
        };
        let most = self.window.size();
        match self.lanes.enter(&key, item, most) {
            Entered::Starts(item) => self.buffer.push_back(item),
            Entered::Waits => {}
            Entered::Refused(item) => self.send(item.receipt, Settle::Release, Tally::Returned),
        }
    }

    fn bury_undecodable(&self, receipt: Receipt, error: &Error) {
        let error = bounded(&error_chain(error));
        let kind = ReasonKind::Undecodable;
        self.bury(
            receipt,
            Reason {
                kind,
                handler: None,
                error,
                attempts: 1,
            },
        );
    }

    fn bury(&self, receipt: Receipt, reason: Reason) {
        log_dead_letter(&self.settings.queue, receipt.message_id(), None, &reason);
        let (progress, outgoing) = (Progress::default(), Vec::new());
        let settle = Settle::DeadLetter {
            reason,
            progress,
            outgoing,
        };
        self.send(receipt, settle, Tally::DeadLettered);
    }
}

/// Reads a delivery.
pub(crate) fn read(
    codecs: &Codecs,
    queue: &QueueName,
    delivery: Delivery,
    lease: Arc<Lease>,
    slots: &Arc<Slots>,
) -> Result<Work> {
    let receipt = delivery.receipt;
    let message_id = receipt.message_id();
    let Delivery {
        enqueued_at,
        ref headers,
        ..
    } = delivery;
    let origin = Origin {
        queue,
        message_id,
        enqueued_at,
        headers,
    };
    let envelope = codecs.read(&delivery.body, origin)?;
    let received = Arc::new(Received {
        envelope,
        queue: queue.clone(),
        receipt,
        headers: delivery.headers,
        deliveries: delivery.deliveries,
        enqueued_at: delivery.enqueued_at,
        lease,
        parent: Span::none(),
    });
    let clock = EngineClock {
        at: delivery.leased_at,
        read: Instant::now(),
    };
    Ok(Work {
        received,
        clock,
        slots: Arc::clone(slots),
        suspect: Mutex::default(),
    })
}

/// The control event that a delivery is, if it is one.
fn control(received: &Received) -> Result<Option<Control>> {
    if !is_control(received.envelope.event_type()) {
        return Ok(None);
    }
    if received.is::<End>() {
        return received
            .envelope
            .decode()
            .map(|end| Some(Control::End(end)));
    }
    received
        .envelope
        .decode::<Interrupt>()
        .map(|_| Some(Control::Interrupt))
}
