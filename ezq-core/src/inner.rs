//! What an application, its publishers and its consumers share once it is built and checked.

use std::sync::Arc;

use crate::dispatcher::Dispatcher;
use crate::engine::{Capabilities, PublishOutcome};
use crate::extract::Provided;
use crate::publisher::Services;
use crate::{Config, Error, QueueName, Result, Settle};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) services: Arc<Services>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) config: Arc<Config>,
}

impl Inner {
    /// Checks that every handler's extractors can be provided.
    pub(crate) fn check(&self, capabilities: &Capabilities) -> Result<()> {
        let provided = Provided { states: &self.services.states, capabilities };
        for handler in self.dispatcher.registry.handlers() {
            for check in &handler.checks {
                check(&provided).map_err(|error| {
                    let message = format!("the handler `{}` cannot run: {error}", handler.name);
                    Error::new(error.kind(), message).with_source(error)
                })?;
            }
        }
        Ok(())
    }

    /// Publishes those of a settlement's events whose queue another engine keeps: they cannot go
    /// out in one step with it, so they go before it.
    pub(crate) async fn publish_elsewhere(
        &self,
        queue: &QueueName,
        settle: &mut Settle,
    ) -> Result<()> {
        let engines = &self.services.engines;
        let Some(outgoing) = settle.outgoing_mut() else { return Ok(()) };
        if outgoing.iter().all(|event| engines.same(queue, &event.queue)) {
            return Ok(());
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            outgoing.drain(..).partition(|event| engines.same(queue, &event.queue));
        *outgoing = here;
        for outcome in engines.publish(elsewhere).await? {
            if let PublishOutcome::Failed(error) = outcome {
                return Err(error);
            }
        }
        Ok(())
    }
}
