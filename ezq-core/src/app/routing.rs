//! Where an application's events go.

use crate::app::AppBuilder;
use crate::message::queue_name::QueueName;
use std::sync::Arc;

impl AppBuilder {
    /// Routes events by a function of their type's name: the queue of those whose publisher names
    /// none; with `None`, [`Config::event_routes`](crate::Config::event_routes) decide, then the
    /// type's own queue, then the application's.
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine, QueueName};
    /// let slow = QueueName::new("slow")?;
    /// let app = App::builder()
    ///     .route_events(move |event_type| event_type.ends_with(".export").then(|| slow.clone()))
    ///     .build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn route_events(
        mut self,
        route: impl Fn(&str) -> Option<QueueName> + Send + Sync + 'static,
    ) -> Self {
        self.routing.function = Some(Arc::new(route));
        self
    }
}
