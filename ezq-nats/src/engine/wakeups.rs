//! Wake-ups by push: one subscription for each queue that somebody waits for.

use std::sync::{Arc, PoisonError};

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::state::State;

impl State {
    /// A counter that changes when a message may have become readable.
    pub(crate) async fn wakeups(
        self: &Arc<Self>,
        queue: &QueueName,
    ) -> Result<watch::Receiver<u64>> {
        if let Some(known) = self.listened(queue) {
            return Ok(known);
        }
        let subject = self.names(queue).wake();
        let mut woken = self
            .connection
            .client
            .subscribe(subject)
            .await
            .map_err(|error| {
                let text = format!(
                    "the NATS server at {} wakes nobody at present",
                    self.address()
                );
                Error::new(ErrorKind::Connection, text).with_source(error)
            })?;

        let counter = watch::Sender::new(0);
        let receiver = counter.subscribe();
        {
            let mut wakeups = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner);
            wakeups.insert(queue.clone(), counter.clone());
        }
        let connection = self.connection.clone();
        // It ends when the connection is closed, or when nobody waits any more.
        tokio::spawn(async move {
            let mut losses = connection.losses();
            loop {
                tokio::select! {
                    word = woken.next() => if word.is_none() {
                        return;
                    },
                    // What was said while the connection was down is lost.
                    so_far = connection.restored_after(losses) => losses = so_far,
                    () = counter.closed() => return,
                }
                counter.send_modify(|count| *count = count.wrapping_add(1));
            }
        });
        Ok(receiver)
    }

    fn listened(&self, queue: &QueueName) -> Option<watch::Receiver<u64>> {
        let mut wakeups = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner);
        // A counter that nobody reads has ended its task.
        wakeups.retain(|_, counter| counter.receiver_count() > 0);
        wakeups.get(queue).map(watch::Sender::subscribe)
    }

    /// Wakes who waits in this process.
    pub(crate) fn wake_here(&self, queue: &QueueName) {
        let wakeups = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = wakeups.get(queue) {
            counter.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}
