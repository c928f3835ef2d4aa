//! Which events of a consumer's queue are to be cancelled: the coordinator learns it, and whoever settles a
//! delivery asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::{CancelOrder, Cancellation, Settle};
use crate::message::message_id::MessageId;

/// The orders for the queue of one consumer.
#[derive(Debug, Default)]
pub(crate) struct CancelOrders {
    /// Set if there is any, so that the common case costs one load.
    is_any: AtomicBool,
    orders: Mutex<HashMap<MessageId, CancelOrder>>,
}

impl CancelOrders {
    /// Learns what is to be cancelled now.
    pub(crate) fn set(&self, cancellations: &[Cancellation]) {
        let orders = cancellations
            .iter()
            .map(|one| (one.message_id.clone(), one.order.clone()));
        *self.orders() = orders.collect();
        // The lock orders the rest. A settlement that is drawn at this moment precedes the order.
        self.is_any
            .store(!cancellations.is_empty(), Ordering::Relaxed);
    }

    /// The order for a message, if it is to be cancelled.
    pub(crate) fn of(&self, id: &MessageId) -> Option<CancelOrder> {
        if !self.is_any.load(Ordering::Relaxed) {
            return None;
        }
        self.orders().get(id).cloned()
    }

    /// Whether a message is to be cancelled.
    pub(crate) fn has(&self, id: &MessageId) -> bool {
        self.is_any.load(Ordering::Relaxed) && self.orders().contains_key(id)
    }

    fn orders(&self) -> MutexGuard<'_, HashMap<MessageId, CancelOrder>> {
        // A map is replaced as a whole, so a panic leaves a whole one behind.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settlement of a delivery that is to be cancelled, in place of what its handlers came to.
pub(crate) fn in_place_of(settle: Settle, order: &CancelOrder, deliveries: u32) -> Settle {
    let publishes = !settle.outgoing().is_empty();
    let mut progress = settle.into_progress();
    if publishes {
        // Its events do not go out: after a redrive the handlers that returned them run again.
        progress = progress.without_done();
    }
    order.settle(progress, deliveries)
}
