//! A batch handler with what one run of it needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::dispatch::dispatcher::Dispatcher;
use crate::handler::Handler;
use crate::handler::invoke::{Invoke, InvokeBatch};
use crate::message::queue_name::QueueName;
use crate::publish::services::Services;

/// A batch handler, ready to be run.
#[derive(Clone, Copy)]
pub(crate) struct BatchRunner<'a> {
    pub(crate) handler: &'a Handler,
    pub(super) invoke: &'a InvokeBatch,
    pub(super) services: &'a Arc<Services>,
    pub(crate) timeout: Option<Duration>,
    /// The permits of the handler, if it has a limit.
    pub(crate) limit: Option<&'a Semaphore>,
}

impl Dispatcher {
    pub(super) fn batch_runner<'a>(
        &'a self,
        handler: &'a Handler,
        invoke: &'a InvokeBatch,
    ) -> BatchRunner<'a> {
        BatchRunner {
            handler,
            invoke,
            services: &self.services,
            timeout: self.timeout(handler),
            limit: self.limits.get(&handler.name),
        }
    }

    /// How many deliveries of a queue may wait for batches, beside those that are handled.
    pub(crate) fn batch_room(&self, queue: &QueueName) -> usize {
        let handlers = self.registry.of(queue).iter();
        let sizes = handlers.filter_map(|handler| Some(self.batches.get(&handler.name)?.size));
        sizes.fold(0, usize::saturating_add)
    }

    /// Whether a relay takes events of a queue.
    pub(crate) fn has_relay(&self, queue: &QueueName) -> bool {
        let mut handlers = self.registry.of(queue).iter();
        handlers.any(|handler| handler.sink.is_some())
    }

    /// The handler of a queue and the size of its batches, if it is the only one, and takes batches
    /// and a transaction.
    pub(crate) fn sole_batch(&self, queue: &QueueName) -> Option<(BatchRunner<'_>, usize)> {
        let handlers = self.registry.of(queue).iter();
        let mut ordinary = handlers.filter(|handler| !handler.takes_control());
        let handler = ordinary.next()?;
        if ordinary.next().is_some() {
            return None;
        }
        let Invoke::Batch(invoke) = &handler.invoke else {
            return None;
        };
        if handler.transactions != 1 {
            return None;
        }

        let size = self.batches.get(&handler.name)?.size;
        Some((self.batch_runner(handler, invoke), size))
    }
}
