//! The engine: its connections, what it knows of queues, and its background tasks.
//!
//! The traits of ezq-core's contract are implemented above it, in `contract`.

mod broadcast;
mod connect;
mod deduping;
mod handle;
mod lease;
mod publish;
mod tasks;
mod unsendable;

pub(crate) use broadcast::stored;
pub(crate) use handle::call_part;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::Capabilities;
use ezq_core::message::QueueName;
use sqlx::PgPool;

use crate::claim::cursor::ClaimCursors;
use crate::claim::keys::unindexed::Unindexed;
use crate::claim::keys::walk::KeyWalks;
use crate::connection::connector::Connector;
use crate::connection::dedicated::Dedicated;
use crate::connection::plans::Plans;
use crate::connection::pool::Pool;
use crate::connection::stop::Stopper;
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::publish::group_commit::GroupCommit;
use crate::retention::Retentions;
use crate::retention::sweep::Sweeper;
use crate::schema::Schema;
use crate::schema::queues::Queues;
use crate::settle::LockedRows;
use crate::wake::Wake;
use tasks::Tasks;

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

pub(crate) struct Inner {
    pub(crate) connector: Connector,
    pub(crate) capabilities: Capabilities,
    pub(crate) encoding: Encoding,
    pub(crate) manage_schema: bool,
    pub(crate) restart_grace: Option<Duration>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) owns_pool: bool,
    pub(crate) claim: Dedicated,
    pub(crate) settle: Dedicated,
    pub(crate) renew: Dedicated,
    /// For rare calls, which may take their time.
    pub(crate) control: Arc<Dedicated>,
    /// For calls that must not wait: health, and stopping statements.
    pub(crate) urgent: Arc<Dedicated>,
    pub(crate) stopper: Stopper,
    pub(crate) locked: LockedRows,
    pub(crate) group_commit: GroupCommit,
    pub(crate) queues: Queues,
    pub(crate) retentions: Arc<Retentions>,
    pub(crate) sweeper: Sweeper,
    pub(crate) schema: Schema,
    pub(crate) timetable: Schema,
    pub(crate) subscriptions: Schema,
    pub(crate) replays: Schema,
    pub(crate) key_walks: KeyWalks,
    pub(crate) unindexed: Unindexed,
    pub(crate) cursors: ClaimCursors,
    pub(crate) plans: Plans,
    pub(crate) wake: Arc<Wake>,
    tasks: Mutex<Tasks>,
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

    /// The pool that publishing uses: the application's, or the engine's own.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.inner.pool.driver()
    }

    pub(crate) fn pool_leases(&self) -> &Arc<Pool> {
        &self.inner.pool
    }
}

impl Inner {
    pub(crate) fn announce(&self, queue: &QueueName) {
        self.start_notifying();
        self.wake.announce(queue);
    }

    pub(crate) fn announce_all(&self, queues: &HashSet<QueueName>) {
        for queue in queues {
            self.announce(queue);
        }
    }

    /// Forgets what is known of a queue whose table is gone or has changed, as an error shows.
    pub(crate) fn note(&self, failure: &sqlx::Error, queue: &QueueName) {
        if missing::is_table(failure) || error::is_reshaped(failure) {
            self.queues.forget(queue);
            self.retentions.forget(queue);
            self.schema.forget();
        }
    }
}

impl fmt::Debug for PgmqEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgmqEngine")
            .field("place", &self.inner.connector.place().to_string())
            .finish_non_exhaustive()
    }
}
