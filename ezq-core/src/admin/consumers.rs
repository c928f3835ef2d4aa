//! Consumers as an operator sees them: who runs where, and who is gone.

use std::time::Duration;

use crate::engine::{ConsumerPresence, SeenConsumer};
use crate::error::Result;
use crate::shared::Shared;

/// After so long without a sign of life a consumer is taken to be gone: three times as long as the
/// longest time between two signs.
pub const GONE_AFTER: Duration = Duration::from_secs(30);

/// The consumers of an application's engines, in every process. Get it by
/// [`App::consumers`](crate::app::App::consumers).
///
/// Each process notes its consumers in the store every ten seconds, unless
/// [`EZQ_PRESENCE`](crate::config::Config::presence) is `false`. A consumer that begins is listed after
/// about half a second, and one that ends is listed no more. One whose process died is listed as
/// [gone](ConsumerInfo::is_gone) after half a minute, and for a day.
#[derive(Clone, Copy)]
pub struct Consumers<'a> {
    inner: &'a Shared,
}

/// A consumer, as its process last told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// What its process told.
    pub consumer: ConsumerPresence,
    /// How long ago, by the engine's clock.
    pub seen_ago: Duration,
    /// Whether it has given no sign of life for [`GONE_AFTER`]: its process died, or cannot reach the
    /// store.
    pub is_gone: bool,
}

impl<'a> Consumers<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Self {
        Self { inner }
    }

    /// Every consumer, sorted by queue, application, host and process. Engines that keep no consumers
    /// are left out.
    ///
    /// ```
    /// # use ezq_core::handler::{AnyEvent, Handler};
    /// # use ezq_core::testing::TestApp;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app.register(Handler::on("log", |_: AnyEvent| async {})))?;
    /// # let handle = app.consumer().spawn();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// for one in app.consumers().list().await? {
    ///     let consumer = &one.consumer;
    ///     println!("{} on {}: {} in flight", consumer.queue, consumer.host, consumer.in_flight);
    /// #   assert!(!one.is_gone);
    /// }
    /// # assert_eq!(app.consumers().list().await?.len(), 1);
    /// # handle.stop();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When an engine could not be asked.
    pub async fn list(&self) -> Result<Vec<ConsumerInfo>> {
        let mut all = Vec::new();
        for engine in self.inner.services.engines.all() {
            if let Some(presence) = engine.presence() {
                all.extend(
                    presence
                        .consumers()
                        .await?
                        .into_iter()
                        .map(ConsumerInfo::of),
                );
            }
        }
        all.sort_by(|a, b| a.consumer.place().cmp(&b.consumer.place()));
        Ok(all)
    }
}

impl ConsumerInfo {
    fn of(seen: SeenConsumer) -> Self {
        let SeenConsumer { consumer, seen_ago } = seen;
        Self {
            consumer,
            seen_ago,
            is_gone: seen_ago >= GONE_AFTER,
        }
    }
}

impl std::fmt::Debug for Consumers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumers").finish_non_exhaustive()
    }
}
