//! What the parts of one run share.
//!
//! Every handler task holds the scope, and the settling task ends only when the last scope is gone.
//! So nothing that outlives the handlers may hold it: neither a claim nor the settling task itself.
//! The consumer's status is not in it either: health counts who holds that.

use std::sync::Arc;

use crate::consumer::cancel_orders::CancelOrders;
use crate::consumer::leases::Leases;
use crate::consumer::settings::Settings;
use crate::consumer::settle::outbox::Outbox;
use crate::consumer::settle::settlement::{PendingSettlement, SettledDelivery};
use crate::dispatch::admission::Admission;
use crate::dispatch::together::RelayLimits;
use crate::dispatch::work::Work;
use crate::engine::{CancelOrder, Delivery, Receipt, Settle};
use crate::logging::error;
use crate::message::settlement::Progress;
use crate::observe::metrics::QueueMetrics;
use crate::observe::report::{Counters, Disposition};
use crate::shared::Shared;

/// What the fetcher, the workload, the stop and the handler tasks of one run share.
pub(crate) struct RunScope {
    pub(crate) app: Arc<Shared>,
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) cancel_orders: CancelOrders,
    pub(crate) outbox: Outbox,
    pub(crate) admission: Arc<Admission>,
    /// How many deliveries may wait for batches, beside those that are handled.
    pub(crate) batch_room: usize,
    /// How a relay takes the events of the queue, if it has it to itself.
    pub(crate) relay: Option<RelayLimits>,
    /// A relay takes events of the queue: it sends bodies as they are stored.
    pub(crate) keeps_bodies: bool,
    pub(crate) metrics: QueueMetrics,
}

impl RunScope {
    /// Hands a settlement to the settling task.
    pub(crate) fn settle(&self, settlement: PendingSettlement) {
        if matches!(settlement.settle, Settle::Release) {
            self.leases.give_back(settlement.delivery.receipt());
        }
        if !self.outbox.send(settlement) {
            error!("the settling task has ended: the event will be delivered again");
        }
    }

    /// Settles a delivery that no handler saw.
    pub(crate) fn settle_unhandled(
        &self,
        receipt: Receipt,
        settle: Settle,
        disposition: Disposition,
    ) {
        self.settle(PendingSettlement::new(
            SettledDelivery::Unhandled(Box::new(receipt)),
            settle,
            disposition,
        ));
    }

    /// Gives a delivery back to its place in the queue before a handler ran.
    pub(crate) fn release(&self, receipt: Receipt) {
        self.settle_unhandled(receipt, Settle::Release, Disposition::Returned);
    }

    /// Settles a delivery that an operator has cancelled, before it was read.
    pub(crate) fn cancel_unhandled(&self, order: &CancelOrder, delivery: Delivery) {
        // The lease just taken is no delivery to a handler.
        let deliveries = delivery.deliveries.saturating_sub(1);
        let settle = order.settle(Progress::default(), deliveries);
        let disposition = Disposition::of(&settle);
        self.settle_unhandled(delivery.receipt, settle, disposition);
    }

    /// Gives a delivery back that was read.
    pub(crate) fn give_back(&self, work: &Work) {
        self.release(work.received.receipt.clone());
    }

    pub(crate) fn log_panic(&self) {
        error!(queue = %self.settings.queue, "handling an event panicked: it will be delivered \
                                              again");
    }
}
