//! The measurements of publishing. A program may publish to any queue, so their number is limited.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, counter};

use crate::message::queue_name::QueueName;
use crate::observe::metrics::recorded::{OTHER, Since, Timing};
use crate::observe::metrics::{PublishedAs, names};

/// How many queues get metrics of their own. All others share the label `other`.
const MOST_QUEUES: usize = 1000;
/// The label of a call that publishes to several queues, or to all that are subscribed.
const SEVERAL: &str = "*";

/// The type of an event, if the program's code names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownType(Option<&'static str>);

impl KnownType {
    pub(crate) fn of(event_type: &'static str) -> Self {
        Self(Some(event_type))
    }

    pub(crate) fn unknown() -> Self {
        Self(None)
    }
}

/// What an application measures of its publishing.
#[derive(Debug, Default)]
pub(crate) struct PublishMetrics {
    queues: RwLock<HashMap<String, Arc<QueueHandles>>>,
}

#[derive(Debug)]
struct QueueHandles {
    call: Timing,
    published: RwLock<HashMap<&'static str, [Counter; 4]>>,
}

impl PublishMetrics {
    /// A call begins that publishes events to these queues; none, if it is not known to which.
    pub(crate) fn call<'a>(&self, queues: impl IntoIterator<Item = &'a QueueName>) -> PublishCall {
        let mut queues = queues.into_iter();
        let queue = queues.next().map(QueueName::as_str);
        // Most calls publish to one queue, and their times are worth comparing by it.
        let is_one = queues.all(|other| Some(other.as_str()) == queue);
        PublishCall {
            handles: self.of(queue.filter(|_| is_one).unwrap_or(SEVERAL)),
            began: Since::now(),
        }
    }

    /// An event was published.
    pub(crate) fn published(&self, queue: &QueueName, event_type: KnownType, outcome: PublishedAs) {
        let handles = self.of(queue.as_str());
        let event_type = event_type.0.unwrap_or(OTHER);
        let published = handles.published.read();
        let published = published.unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = published.get(event_type) {
            return counters[outcome as usize].increment(1);
        }
        drop(published);

        let mut published = handles
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The label is the one under which the handles are kept.
        let label = self.label(queue.as_str());
        let counters = published
            .entry(event_type)
            .or_insert_with(|| counters(&label, event_type));
        counters[outcome as usize].increment(1);
    }

    /// The label of a queue: its name, unless there are too many.
    fn label(&self, queue: &str) -> String {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        // Names that came first keep their labels: one that changed would break its series.
        let has_own = queues.contains_key(queue) || queues.len() < MOST_QUEUES;
        if has_own { queue } else { OTHER }.to_owned()
    }

    fn of(&self, queue: &str) -> Arc<QueueHandles> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(handles) = queues.get(queue) {
            return Arc::clone(handles);
        }
        // Released before the write below, which would wait for it.
        drop(queues);

        // Two threads may both come here: the second finds the entry of the first.
        let label = self.label(queue);
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let handles = queues.entry(label).or_insert_with_key(|label| {
            Arc::new(QueueHandles {
                call: Timing::of(names::PUBLISH, label),
                published: RwLock::default(),
            })
        });
        Arc::clone(handles)
    }
}

/// One counter for each [`PublishedAs`], in the order of their discriminants.
fn counters(queue: &str, event_type: &'static str) -> [Counter; 4] {
    let outcomes = ["stored", "duplicate", "failed", "handed_over"];
    outcomes.map(|outcome| {
        counter!(
            names::PUBLISHED,
            "queue" => queue.to_owned(),
            "event_type" => event_type,
            "outcome" => outcome,
        )
    })
}

/// A call that publishes. One that is given up is not measured: it has no outcome.
pub(crate) struct PublishCall {
    handles: Arc<QueueHandles>,
    began: Since,
}

impl PublishCall {
    pub(crate) fn end(self, is_ok: bool) {
        self.handles.call.record(self.began, is_ok);
    }
}
