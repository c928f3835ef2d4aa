//! How an application is.

use crate::admin::health::ConsumerHealth;
use crate::admin::health::EngineHealth;
use crate::admin::health::Health;
use crate::app::App;

impl App {
    /// How the application is: whether its engines answer, and how its consumers are. Everything is
    /// asked at once, for at most [`connect_timeout`](crate::Config::connect_timeout), and cheaply: a
    /// probe may ask every second.
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine};
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
        let (inner, patience) = (&self.inner, self.inner.config.connect_timeout);
        let engines = inner.services.engines.with_names();
        let engines = engines.map(|(name, engine)| EngineHealth::of(name, &**engine, patience));
        let statuses = inner.consumers();
        let consumers = statuses
            .iter()
            .map(|status| ConsumerHealth::of(inner, status));
        let (engines, consumers) = tokio::join!(
            futures_util::future::join_all(engines),
            futures_util::future::join_all(consumers)
        );
        Health { engines, consumers }
    }
}
