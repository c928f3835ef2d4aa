//! The handlers of an application and the options they run under. It knows no engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::Config;
use crate::delivery::received::Received;
use crate::dispatch::backlogs::Backlogs;
use crate::dispatch::registry::Registry;
use crate::dispatch::unknown_reasons::UnknownReasons;
use crate::handler::batch::BatchLimits;
use crate::handler::invoke::Invoke;
use crate::handler::retry::RetryPolicy;
use crate::handler::{Handler, HandlerOptions};
use crate::message::headers::MAX_ATTEMPTS;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;
use crate::publish::services::Services;

/// The handlers of an application, with what they run under.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) registry: Registry,
    pub(crate) services: Arc<Services>,
    pub(crate) config: Arc<Config>,
    pub(crate) unknown_reasons: UnknownReasons,
    /// The permits of the handlers that have a limit.
    pub(super) limits: HashMap<HandlerName, Semaphore>,
    /// The limits of the handlers that take batches.
    pub(super) batches: HashMap<HandlerName, BatchLimits>,
}

impl Dispatcher {
    pub(crate) fn new(registry: Registry, services: Arc<Services>, config: Arc<Config>) -> Self {
        let mut limits = HashMap::new();
        let mut batches = HashMap::new();
        for handler in registry.handlers() {
            let options = options(&config, handler);
            if let Some(limit) = options.concurrency {
                // More permits than the semaphore holds are no limit.
                let permits = limit.min(Semaphore::MAX_PERMITS);
                limits.insert(handler.name.clone(), Semaphore::new(permits));
            }
            if matches!(handler.invoke, Invoke::Batch(_)) {
                batches.insert(handler.name.clone(), options.batch());
            }
        }

        Self {
            registry,
            services,
            config,
            unknown_reasons: UnknownReasons::default(),
            limits,
            batches,
        }
    }

    /// How long one run of a handler may take; `None` is no limit.
    pub(super) fn timeout(&self, handler: &Handler) -> Option<Duration> {
        options(&self.config, handler)
            .timeout
            .unwrap_or(self.config.handler_timeout)
    }

    /// How often a handler is tried on a delivery. The message may ask for another number of attempts.
    pub(super) fn retry_policy(&self, handler: &Handler, received: &Received) -> RetryPolicy {
        let mut policy = options(&self.config, handler).retry(self.config.retry);
        if let Some(attempts) = received.headers.number(MAX_ATTEMPTS) {
            policy.max_attempts = attempts.max(1);
        }
        policy
    }

    /// The backlogs of a queue's handlers with a limit, for a consumer that holds so many waiting runs
    /// of each. For a handler of batches it holds one batch more.
    pub(crate) fn backlogs(&self, queue: &QueueName, most: usize) -> Backlogs {
        let handlers = self.registry.of(queue).iter();
        let limited = handlers.filter(|handler| self.limits.contains_key(&handler.name));
        Backlogs::of(limited.map(|handler| {
            let batch = self.batches.get(&handler.name);
            let batch_size = batch.map_or(0, |limits| limits.size);
            (handler.name.clone(), most.saturating_add(batch_size))
        }))
    }
}

/// The options of a handler: what the configuration sets, else what its own code sets.
fn options(config: &Config, handler: &Handler) -> HandlerOptions {
    match config.handlers.get(&handler.name) {
        Some(over) => over.or(handler.options),
        None => handler.options,
    }
}
