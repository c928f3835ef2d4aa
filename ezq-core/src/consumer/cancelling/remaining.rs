//! Carrying out the orders for events that this consumer does not hold, until it is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::admin::by_hand::cancel_waiting;
use crate::consumer::leases::Leases;
use crate::engine::{Cancellation, Engine, QueueCancellations};
use crate::error::{ErrorKind, Result, error_chain};
use crate::message::queue_name::QueueName;
use crate::publish::services::Services;

/// How long the worker that has the event is given first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two looks. A handler may take long to end.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Carries out what no worker does.
pub(crate) struct RemainingOrders {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) services: Arc<Services>,
    pub(crate) queue: QueueName,
    pub(crate) leases: Arc<Leases>,
}

impl RemainingOrders {
    /// Looks after the orders, until it is dropped.
    pub(crate) async fn run(self, mut receiver: watch::Receiver<QueueCancellations>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let orders = Arc::clone(&receiver.borrow_and_update());
            tokio::select! {
                changed = receiver.changed() => {
                    if changed.is_err() {
                        // The engine is closed. The consumer ends this task with itself.
                        return std::future::pending().await;
                    }
                    pause = FIRST_PAUSE;
                }
                // With jitter the processes of a fleet do not look all at once.
                () = sleep(pause.mul_f64(rand::random_range(0.8..1.2))), if !orders.is_empty() => {
                    if let Err(error) = self.look_after(&orders).await {
                        let queue = &self.queue;
                        debug!(%queue, error = error_chain(&error), "cannot look after cancellations yet");
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Cancels what waits, and forgets what is gone.
    async fn look_after(&self, orders: &[Cancellation]) -> Result<()> {
        let Some(cancellations) = self.engine.cancellations() else {
            return Ok(());
        };
        let mut failure = None;
        for Cancellation {
            message_id, order, ..
        } in orders
        {
            // Its own settlement is to come.
            if self.leases.holds_message(message_id) {
                continue;
            }

            let notices = &self.services.notices;
            let cancelled =
                cancel_waiting(&*self.engine, notices, &self.queue, message_id, order).await;
            match cancelled {
                Ok(_) => {
                    let ids = std::slice::from_ref(message_id);
                    cancellations.finish(&self.queue, ids).await?;
                }
                // Another worker has it.
                Err(error) if error.kind() == ErrorKind::LeaseLost => {}
                // A transaction may have it. The others need not wait for that.
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}
