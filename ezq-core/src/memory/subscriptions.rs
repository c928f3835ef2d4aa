//! The subscriptions of the memory engine, and the declared roles of applications, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Micros;
use crate::engine::EventParty;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// When each subscription was made, by queue, pattern and application.
    pub(super) standing: BTreeMap<(QueueName, Pattern, String), Micros>,
    pub(super) parties: BTreeSet<EventParty>,
}

impl Subscriptions {
    /// The queues that are subscribed to an event type.
    pub(super) fn queues(&self, event_type: &str) -> BTreeSet<QueueName> {
        let matching = self
            .standing
            .keys()
            .filter(|(_, pattern, _)| pattern.matches(event_type));
        matching.map(|(queue, ..)| queue.clone()).collect()
    }
}
