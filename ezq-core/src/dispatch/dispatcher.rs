//! The handlers of an application and the options they run under. It knows no engine.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
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
        let mut limits = HashMap::default();
        let mut batches = HashMap::default();
        for handler in registry.handlers() {
            if let Some(limit) = option(&config, handler, |options| options.concurrency) {
                // More permits than the semaphore holds are no limit.
                let permits = limit.min(Semaphore::MAX_PERMITS);
                limits.insert(handler.name.clone(), Semaphore::new(permits));
            }
            if matches!(handler.invoke, Invoke::Batch(_)) {
                batches.insert(handler.name.clone(), batch_limits(&config, handler));
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
        option(&self.config, handler, |options| options.timeout)
            .unwrap_or(self.config.handler_timeout)
    }

    /// How often a handler is tried on a delivery, and when. The message may ask for another number
    /// of attempts.
    pub(super) fn retry_policy(&self, handler: &Handler, received: &Received) -> RetryPolicy {
        let defaults = &self.config.retry;
        let max_attempts = received
            .headers
            .number(MAX_ATTEMPTS)
            .or_else(|| option(&self.config, handler, |options| options.max_attempts))
            .unwrap_or(defaults.max_attempts);
        let backoff = option(&self.config, handler, |options| options.backoff.as_ref());

        RetryPolicy {
            max_attempts: max_attempts.max(1),
            backoff: backoff.unwrap_or(&defaults.backoff).clone(),
        }
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

fn batch_limits(config: &Config, handler: &Handler) -> BatchLimits {
    let defaults = BatchLimits::default();
    BatchLimits {
        size: option(config, handler, |options| options.batch_size).unwrap_or(defaults.size),
        wait: option(config, handler, |options| options.batch_wait).unwrap_or(defaults.wait),
    }
}

/// An option of a handler: what the configuration sets, else what its own code sets.
///
/// One at a time, because each event asks for the timeout: a copy of all options would count another
/// reference to a custom backoff.
fn option<'a, T>(
    config: &'a Config,
    handler: &'a Handler,
    pick: impl Fn(&'a HandlerOptions) -> Option<T>,
) -> Option<T> {
    let configured = config.handlers.get(&handler.name).and_then(&pick);
    configured.or_else(|| pick(&handler.options))
}
