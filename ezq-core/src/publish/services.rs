//! What publishers, handlers and consumers of one application share.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::codecs::Codecs;
use crate::engine::{Outgoing, PublishOutcome};
use crate::error::Result;
use crate::message::queue_name::QueueName;
use crate::observe::metrics::PublishMetrics;
use crate::observe::notices::Notices;
use crate::observe::tracer::Tracer;
use crate::publish::engines::Engines;
use crate::publish::routing::Routing;
use crate::publish::states::States;

/// What all parts of an application share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) states: Arc<States>,
    pub(crate) engines: Engines,
    pub(crate) source: String,
    pub(crate) default_queue: QueueName,
    pub(crate) routing: Routing,
    pub(crate) codecs: Arc<Codecs>,
    pub(crate) notices: Notices,
    pub(crate) metrics: PublishMetrics,
    pub(crate) tracer: Option<Arc<dyn Tracer>>,
    pub(crate) message_limit: usize,
    pub(crate) dedupe_window: Duration,
}

impl Services {
    /// The queue of an event whose publisher names none: where its type is routed, else its type's own
    /// queue, else the application's.
    pub(crate) fn queue_of(&self, event_type: &str, own: Option<&str>) -> Result<QueueName> {
        match (self.routing.queue(event_type)?, own) {
            (Some(routed), _) => Ok(routed),
            (None, Some(own)) => QueueName::new(own),
            (None, None) => Ok(self.default_queue.clone()),
        }
    }

    /// Publishes events that handlers returned, apart from any settlement; an error if one of them is
    /// not stored.
    pub(crate) async fn publish_returned(&self, events: Vec<Outgoing>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let told = self.notices.copy_if_heard(&events);
        let call = self.metrics.call(events.iter().map(|event| &event.queue));
        let outcomes = self.engines.publish(events).await;
        call.end(outcomes.is_ok());
        for outcome in outcomes? {
            if let PublishOutcome::Failed(error) = outcome {
                return Err(error);
            }
        }
        self.notices.went_out(&told);
        Ok(())
    }
}
