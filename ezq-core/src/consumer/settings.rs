//! The checked options of one consumer.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;

/// The checked options of one consumer, and the engine of its queue.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) queue: QueueName,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) until_idle: bool,
    /// The patterns to subscribe the queue to; `None` if the consumer does not subscribe.
    pub(crate) subscribe: Option<Vec<Pattern>>,
}
