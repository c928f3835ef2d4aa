//! What an application and its consumers share once it is built.

mod schedules;

use std::sync::{Arc, Mutex};

use crate::config::Config;
use crate::dispatch::dispatcher::Dispatcher;
use crate::engine::{EventRole, Settle};
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::handler::extract::Provided;
use crate::message::queue_name::QueueName;
use crate::observe::status::ConsumerStatus;
use crate::publish::services::Services;
use crate::schedule::Plans;

/// The parts of an application, which do not change while it runs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) services: Arc<Services>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) config: Arc<Config>,
    /// The consumers that health reports, in the order in which they began.
    pub(crate) consumers: Mutex<Vec<Arc<ConsumerStatus>>>,
    pub(crate) schedules: Plans,
    /// The types of events that the application said it publishes or takes elsewhere.
    pub(crate) parties: Vec<(EventRole, &'static str)>,
}

impl Shared {
    /// Checks that the extractors of every handler can be provided: for a handler with a queue of its
    /// own by the engine of that queue, for the others by the engine of the application's queue.
    pub(crate) fn check(&self) -> Result<()> {
        for handler in self.dispatcher.registry.handlers() {
            let own = handler.queue.as_deref().map(QueueName::new).transpose()?;
            self.check_handler(handler, own.as_ref().unwrap_or(&self.config.queue))?;
        }
        Ok(())
    }

    /// Checks the same for the handlers of a queue, by the engine of that queue.
    pub(crate) fn check_queue(&self, queue: &QueueName) -> Result<()> {
        let mut handlers = self.dispatcher.registry.of(queue).iter();
        handlers.try_for_each(|handler| self.check_handler(handler, queue))
    }

    fn check_handler(&self, handler: &Handler, queue: &QueueName) -> Result<()> {
        let Services {
            states, engines, ..
        } = &*self.services;
        let provided = Provided {
            states,
            capabilities: engines.of(queue).capabilities(),
        };

        handler.checks.iter().try_for_each(|check| {
            check(&provided).map_err(|error| {
                let message = format!("the handler `{}` cannot run: {error}", handler.name);
                Error::new(error.kind(), message).with_source(error)
            })
        })
    }

    /// Takes the events out of a settlement whose queue another engine keeps, and publishes them. No
    /// single step can change both engines, so these events go first: at least once.
    pub(crate) async fn publish_elsewhere(
        &self,
        queue: &QueueName,
        settle: &mut Settle,
    ) -> Result<()> {
        let engines = &self.services.engines;
        let Some(outgoing) = settle.outgoing_mut() else {
            return Ok(());
        };
        // The common case moves nothing.
        if outgoing
            .iter()
            .all(|event| engines.same(queue, &event.queue))
        {
            return Ok(());
        }

        let (here, elsewhere): (Vec<_>, Vec<_>) = outgoing
            .drain(..)
            .partition(|event| engines.same(queue, &event.queue));
        *outgoing = here;
        self.services.publish_returned(elsewhere).await
    }
}
