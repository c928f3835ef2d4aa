//! [`App::health`]: asks every engine and every consumer at once.

use futures_util::future::join_all;

use crate::admin::IngestHealth;
use crate::admin::health::{ConsumerHealth, EngineHealth, Health};
use crate::app::App;

impl App {
    /// The health of the application: whether its engines answer, and the state of its consumers.
    ///
    /// It takes at most [`connect_timeout`](crate::config::Config::connect_timeout), and is cheap:
    /// a probe may ask every second.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = App::builder().without_discovered_handlers().build(MemoryEngine::new())?;
    /// // The handler of `GET /ready` in any web framework:
    /// let health = app.health().await;
    /// let status = if health.is_ready() { 200 } else { 503 };
    /// println!("{status}: {health}");
    /// # assert_eq!(status, 200);
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn health(&self) -> Health {
        let inner = &self.inner;
        let patience = inner.config.connect_timeout;
        let named = inner.services.engines.with_names();
        let engines = named.map(|(name, engine)| EngineHealth::of(name, &**engine, patience));
        let statuses = inner.consumers();
        let consumers = statuses
            .iter()
            .map(|status| ConsumerHealth::of(inner, status));

        // All at once, so that one engine that does not answer delays the whole only once.
        let (engines, consumers) = tokio::join!(join_all(engines), join_all(consumers));
        let ingests = inner.ingests();
        Health {
            engines,
            consumers,
            ingests: ingests.iter().map(|one| IngestHealth::of(one)).collect(),
        }
    }
}
