//! What is to be cancelled in a memory engine, and who watches it.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;

use crate::engine::{Cancellation, QueueCancellations};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// What is to be cancelled, by the messages' numbers, and who is told of changes.
#[derive(Debug, Default)]
pub(super) struct CancelBoard {
    asked: BTreeMap<(QueueName, i64), Cancellation>,
    watched: HashMap<QueueName, watch::Sender<QueueCancellations>>,
}

impl CancelBoard {
    pub(super) fn ask(&mut self, queue: &QueueName, number: i64, asked: Cancellation) {
        self.asked.insert((queue.clone(), number), asked);
        self.tell(queue);
    }

    pub(super) fn finish(&mut self, queue: &QueueName, ids: &[MessageId]) {
        for number in ids.iter().filter_map(MessageId::as_number) {
            self.asked.remove(&(queue.clone(), number));
        }
        self.tell(queue);
    }

    pub(super) fn watch(&mut self, queue: &QueueName) -> watch::Receiver<QueueCancellations> {
        let now = self.of(queue);
        self.watched
            .entry(queue.clone())
            .or_insert_with(|| watch::Sender::new(now))
            .subscribe()
    }

    fn of(&self, queue: &QueueName) -> QueueCancellations {
        let of_queue = self.asked.iter().filter(|((name, _), _)| name == queue);
        of_queue.map(|(_, asked)| asked.clone()).collect()
    }

    fn tell(&self, queue: &QueueName) {
        let Some(sender) = self.watched.get(queue) else {
            return;
        };
        let now = self.of(queue);
        sender.send_if_modified(|before| {
            let is_changed = *before != now;
            *before = now;
            is_changed
        });
    }
}
