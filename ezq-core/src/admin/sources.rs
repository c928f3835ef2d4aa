//! Sources of ingests as an operator sees them: how far each is stored.

use crate::engine::StoredPosition;
use crate::error::Result;
use crate::shared::Shared;

/// The sources from which ingests have stored messages, in every process. Get it by
/// [`App::sources`](crate::app::App::sources).
///
/// A store knows how far a source is stored, and when that last changed. It does not know whether an ingest
/// runs: a position that stands still belongs to an ingest that is gone, or to a broker that has nothing
/// new. Of the ingests of this process [`App::health`](crate::app::App::health) tells more.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    inner: &'a Shared,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Self {
        Self { inner }
    }

    /// Every partition of every source, sorted by source and partition. Engines that store no positions
    /// are left out.
    ///
    /// ```
    /// # use ezq_core::app::App;
    /// # use ezq_core::memory::MemoryEngine;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = App::builder().without_discovered_handlers().build(MemoryEngine::new())?;
    /// for one in app.sources().list().await? {
    ///     println!("{} {}: changed at {}", one.source, one.partition, one.moved_at);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When an engine could not be asked.
    pub async fn list(&self) -> Result<Vec<StoredPosition>> {
        let mut all = Vec::new();
        for engine in self.inner.services.engines.all() {
            if let Some(positions) = engine.positions() {
                all.extend(positions.list().await?);
            }
        }
        all.sort_by(|a, b| (&a.source, &a.partition).cmp(&(&b.source, &b.partition)));
        Ok(all)
    }
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}
