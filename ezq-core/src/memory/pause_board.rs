//! What is paused in a memory engine, and who watches it.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;

use crate::engine::{Pause, PauseTarget, QueuePauses};
use crate::message::queue_name::QueueName;

/// What is paused, and who is told of changes.
#[derive(Debug, Default)]
pub(super) struct PauseBoard {
    pub(super) pauses: BTreeMap<PauseTarget, Pause>,
    watched: HashMap<QueueName, watch::Sender<QueuePauses>>,
}

impl PauseBoard {
    fn of(&self, queue: &QueueName) -> QueuePauses {
        let pauses = self
            .pauses
            .values()
            .filter(|pause| pause.target.queue == *queue);
        pauses.cloned().collect()
    }

    pub(super) fn watch(&mut self, queue: &QueueName) -> watch::Receiver<QueuePauses> {
        let now = self.of(queue);
        self.watched
            .entry(queue.clone())
            .or_insert_with(|| watch::Sender::new(now))
            .subscribe()
    }

    pub(super) fn tell(&self, queue: &QueueName) {
        if let Some(sender) = self.watched.get(queue) {
            sender.send_replace(self.of(queue));
        }
    }
}
