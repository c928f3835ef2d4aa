//! What an engine is made of, by who changes it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::engine::{Capabilities, QueueStats};
use ezq_core::message::QueueName;

use super::connections::Connections;
use super::looks::Looks;
// cycle: the state holds its tasks, which are started with parts of the state.
use super::tasks::Tasks;
use crate::admin::recent::Recent;
use crate::claim::cursor::ClaimCursors;
use crate::claim::keys::unindexed::Unindexed;
use crate::claim::keys::walk::KeyWalks;
use crate::claim::partitions::Partitions;
use crate::connection::plans::Plans;
use crate::error::{self, missing};
use crate::holders::HolderBoard;
use crate::message::encoding::Encoding;
use crate::publish::group_commit::GroupCommit;
use crate::publish::recipients::Recipients;
use crate::retention::Retentions;
use crate::retention::sweep::Sweeper;
use crate::retention::vacuum::Vacuum;
use crate::schema::queues::Queues;
use crate::schema::{Part, Schema};
use crate::settle::LockedRows;
use crate::wake::Wake;

/// The state that all handles to one engine share.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) connections: Connections,
    pub(crate) known: KnownQueues,
    pub(crate) claims: ClaimState,
    pub(crate) tables: OwnTables,
    /// The state of cached plans of statements in the pool's transactions.
    pub(crate) plans: Plans,
    pub(crate) group_commit: GroupCommit,
    pub(crate) sweeper: Sweeper,
    /// Vacuums queues, unless that is switched off.
    pub(crate) vacuum: Option<Arc<Vacuum>>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) holders: Arc<HolderBoard>,
    pub(crate) looks: Arc<Looks>,
    pub(super) tasks: Mutex<Tasks>,
}

/// What is set when the engine connects. Nothing changes it later.
pub(crate) struct Settings {
    pub(crate) capabilities: Capabilities,
    pub(crate) encoding: Encoding,
    /// Whether schemas, tables and functions may be created.
    pub(crate) manage_schema: bool,
    pub(crate) restart_grace: Option<Duration>,
}

/// What is known of each queue. Calls learn it, and errors show that it is outdated.
pub(crate) struct KnownQueues {
    pub(crate) queues: Queues,
    pub(crate) retentions: Arc<Retentions>,
    pub(crate) locked: LockedRows,
    pub(crate) recipients: Recipients,
    pub(crate) stats: Recent<QueueStats>,
    pub(crate) lags: Recent<Option<Duration>>,
}

/// What claims leave behind for later claims of the same queue.
#[derive(Default)]
pub(crate) struct ClaimState {
    pub(crate) cursors: ClaimCursors,
    pub(crate) key_walks: KeyWalks,
    pub(crate) unindexed: Unindexed,
    pub(crate) partitions: Partitions,
}

/// ezq's own tables. Each part is made when a call first needs it.
pub(crate) struct OwnTables {
    pub(crate) dedupe_keys: Schema,
    pub(crate) schedules: Schema,
    pub(crate) broadcasts: Schema,
    pub(crate) replays: Schema,
    pub(crate) controls: Schema,
    pub(crate) cancellations: Schema,
    pub(crate) presence: Schema,
    pub(crate) operations: Schema,
    pub(crate) positions: Schema,
}

impl OwnTables {
    pub(super) fn new() -> Self {
        Self {
            dedupe_keys: Schema::new(Part::Engine),
            schedules: Schema::new(Part::Schedules),
            broadcasts: Schema::new(Part::Broadcast),
            replays: Schema::new(Part::Replays),
            controls: Schema::new(Part::Controls),
            cancellations: Schema::new(Part::Cancellations),
            presence: Schema::new(Part::Presence),
            operations: Schema::new(Part::Operations),
            positions: Schema::new(Part::Positions),
        }
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

    /// Notes that a call has left dead rows in a queue: one for each row that it updated or deleted.
    pub(crate) fn note_dead_rows(&self, queue: &QueueName, rows: usize) {
        if let Some(vacuum) = &self.vacuum
            && vacuum.dead_rows.add(queue, rows)
        {
            self.start_vacuuming(vacuum);
        }
    }

    /// Forgets what is known of a queue whose table is gone or has changed, as an error shows.
    pub(crate) fn note(&self, failure: &sqlx::Error, queue: &QueueName) {
        if missing::is_table(failure) || error::is_reshaped(failure) {
            self.known.queues.forget(queue);
            self.known.retentions.forget(queue);
            self.tables.dedupe_keys.forget();
        }
    }
}
