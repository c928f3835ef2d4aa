//! What an application and its consumers share once it is built.

mod presence;
mod sampling;
mod schedules;
mod telling;

use std::sync::{Arc, Mutex};

use crate::config::Config;
use crate::dispatch::dispatcher::Dispatcher;
use crate::engine::{EventRole, Settle};
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::handler::extract::Provided;
use crate::message::queue_name::QueueName;
use crate::observe::ingest::IngestStatus;
use crate::observe::status::ConsumerStatus;
use crate::publish::services::Services;
use crate::schedule::Plans;
use crate::shared::telling::Telling;

/// The parts of an application, which do not change while it runs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) services: Arc<Services>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) config: Arc<Config>,
    /// The consumers that health reports, in the order in which they began.
    pub(crate) consumers: Mutex<Vec<Arc<ConsumerStatus>>>,
    /// The ingests that health reports.
    pub(crate) ingests: Mutex<Vec<Arc<IngestStatus>>>,
    pub(crate) schedules: Plans,
    /// How others are told of the consumers.
    pub(crate) telling: Telling,
    /// The types of events that the application said it publishes or takes elsewhere.
    pub(crate) parties: Vec<(EventRole, &'static str)>,
}

impl Shared {
    /// Checks that the extractors of every registered handler can be provided: for a handler with a
    /// queue of its own by the engine of that queue, for the others by the engine of the application's
    /// queue.
    ///
    /// Those that were found at link time are left to [`check_queue`](Self::check_queue): a program
    /// that only publishes runs none of them.
    pub(crate) fn check(&self) -> Result<()> {
        let handlers = self.dispatcher.registry.handlers().iter();
        let mut checked = Vec::new();
        for handler in handlers.filter(|handler| !handler.is_discovered) {
            let own = handler.queue.as_deref().map(QueueName::new).transpose()?;
            let queue = own.as_ref().unwrap_or(&self.config.queue);
            checked.extend(self.refusals(handler, queue));
        }
        refused(checked)
    }

    /// Checks the same for all handlers of a queue, by the engine of that queue.
    pub(crate) fn check_queue(&self, queue: &QueueName) -> Result<()> {
        let handlers = self.dispatcher.registry.of(queue).iter();
        refused(
            handlers
                .flat_map(|handler| self.refusals(handler, queue))
                .collect(),
        )
    }

    /// What a handler asks for and cannot have.
    fn refusals(&self, handler: &Handler, queue: &QueueName) -> Vec<Error> {
        let Services {
            states, engines, ..
        } = &*self.services;
        let provided = Provided {
            states: handler.states.as_ref().unwrap_or(states),
            capabilities: engines.of(queue).capabilities(),
        };

        let refused = handler
            .checks
            .iter()
            .filter_map(|check| check(&provided).err());
        let refusals = refused.map(|error| {
            let message = format!("the handler `{}` cannot run: {error}", handler.name);
            Error::new(error.kind(), message).with_source(error)
        });
        refusals.collect()
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
        // In a box: a settlement without such events needs no room for it.
        Box::pin(self.services.publish_returned(elsewhere)).await
    }
}

/// One error for all that handlers ask for and cannot have: of the kind of the first, with the messages
/// of all.
fn refused(mut refusals: Vec<Error>) -> Result<()> {
    if refusals.len() < 2 {
        return refusals.pop().map_or(Ok(()), Err);
    }
    let messages: Vec<String> = refusals.iter().map(Error::to_string).collect();
    Err(Error::new(refusals[0].kind(), messages.join("; ")))
}
