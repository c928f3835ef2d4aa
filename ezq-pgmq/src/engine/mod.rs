//! The engine: its connections, what it knows of queues, and its background tasks.
//!
//! The traits of ezq-core's contract are implemented above it, in `contract`.

mod broadcast;
mod connect;
mod connections;
mod deduping;
mod handle;
mod lease;
mod looks;
mod partitioned;
mod publish;
mod state;
mod tasks;
mod unsendable;

pub(crate) use broadcast::stored;
pub(crate) use handle::call_part;

use std::fmt;
use std::sync::Arc;

use ezq_core::Result;
use sqlx::PgPool;

use crate::connection::pool::Pool;
use state::Inner;

/// The engine on PGMQ. A clone is another handle to the same engine.
///
/// It has a dedicated connection each for claiming, renewing, settling and listening, one for calls
/// that must not wait (health), and one for rare calls. Each is opened when first used, and again
/// when it breaks. While a statement waits for another session's lock, a few more are opened.
/// Publishing uses the [pool](Self::pool).
#[derive(Clone)]
pub struct PgmqEngine {
    pub(crate) inner: Arc<Inner>,
}

impl PgmqEngine {
    /// Removes from archives and trails, at once, what is older than they keep. Returns how many
    /// messages were removed.
    ///
    /// The engine does this by itself [every minute](crate::PgmqConfig::sweep_interval), for queues whose
    /// [retention](crate::PgmqConfig::retention) has a limit of age. A transaction removes at most a thousand
    /// rows. A queue that another process sweeps at the moment is left to it.
    ///
    /// # Errors
    /// Why the first queue that failed was not swept; the others were.
    ///
    /// # Cancel safety
    /// What was removed stays removed.
    pub async fn sweep(&self) -> Result<u64> {
        self.inner.sweeper.run().await
    }

    /// Archives the messages of every queue that has no retention, for tests that look at what was
    /// handled.
    #[doc(hidden)]
    pub fn archive_all(&self) {
        self.inner.known.retentions.archive_all();
    }

    /// The pool that publishing uses: the application's, or the engine's own.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.inner.connections.pool.driver()
    }

    pub(crate) fn pool_leases(&self) -> &Arc<Pool> {
        &self.inner.connections.pool
    }
}

impl fmt::Debug for PgmqEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgmqEngine")
            .field(
                "place",
                &self.inner.connections.connector.place().to_string(),
            )
            .finish_non_exhaustive()
    }
}
