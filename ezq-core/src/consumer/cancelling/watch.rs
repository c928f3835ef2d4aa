//! What is to be cancelled in the consumer's queue: heard from the engine, and handed to the handlers.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::consumer::scope::RunScope;
use crate::engine::{Cancellation, QueueCancellations, Receipt};

/// The cancellations of one queue, as the engine tells them.
pub(crate) struct CancelWatch {
    scope: Arc<RunScope>,
    /// `None` if the engine has no cancellations.
    receiver: Option<watch::Receiver<QueueCancellations>>,
}

impl CancelWatch {
    /// Learns what is to be cancelled already.
    pub(crate) fn new(
        scope: Arc<RunScope>,
        receiver: Option<watch::Receiver<QueueCancellations>>,
    ) -> Self {
        let mut watch = Self { scope, receiver };
        watch.learn(None);
        watch
    }

    /// Waits until something else is to be cancelled.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        let Some(receiver) = &mut self.receiver else {
            return pending().await;
        };
        if receiver.changed().await.is_err() {
            // The engine is closed: what is known stays.
            self.receiver = None;
            pending().await
        }
    }

    /// Learns what is to be cancelled now, and cancels the handlers of what is held. `control` is the
    /// control event that stops this consumer: it has taken effect.
    pub(crate) fn learn(&mut self, control: Option<&Receipt>) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        let now = Arc::clone(&receiver.borrow_and_update());

        // Before the handlers are cancelled: what ends because of it is settled by the order.
        self.scope.cancel_orders.set(&now);
        for Cancellation {
            message_id, order, ..
        } in now.iter()
        {
            if self.scope.leases.cancel_message(message_id, control) {
                let queue = &self.scope.settings.queue;
                let by = &order.by;
                info!(%queue, %message_id, by, reason = order.reason, "the handlers of an event are cancelled");
            }
        }
    }
}
