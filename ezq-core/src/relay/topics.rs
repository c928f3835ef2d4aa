//! Which topic an event goes to.

use crate::error::Result;
use crate::event::{Envelope, Pattern};

type TopicOf = Box<dyn Fn(&Envelope) -> String + Send + Sync>;

/// The topics of a relay. A function wins over routes, and the first route that matches over the topic for
/// all others.
pub(super) struct Topics {
    function: Option<TopicOf>,
    routes: Vec<(Pattern, String)>,
    otherwise: String,
}

impl Topics {
    pub(super) fn new(otherwise: &str) -> Self {
        Self {
            function: None,
            routes: Vec::new(),
            otherwise: otherwise.to_owned(),
        }
    }

    pub(super) fn by(&mut self, topic: impl Fn(&Envelope) -> String + Send + Sync + 'static) {
        self.function = Some(Box::new(topic));
    }

    pub(super) fn otherwise(&mut self, topic: String) {
        self.otherwise = topic;
    }

    pub(super) fn route(&mut self, pattern: &str, topic: String) -> Result<()> {
        self.routes.push((Pattern::new(pattern)?, topic));
        Ok(())
    }

    /// The topic of an event.
    pub(super) fn of(&self, event: &Envelope) -> String {
        if let Some(function) = &self.function {
            return function(event);
        }
        let event_type = event.event_type();
        // As they were given: a narrow pattern can stand before a wide one.
        let mut matching = self
            .routes
            .iter()
            .filter(|(pattern, _)| pattern.matches(event_type));
        let topic = matching.next().map_or(&self.otherwise, |(_, topic)| topic);
        topic.clone()
    }
}
