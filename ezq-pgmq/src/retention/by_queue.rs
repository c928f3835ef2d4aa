//! The retention of each queue, and what was looked up of its archive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ezq_core::message::{QueueName, Retention};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::Row as _;

use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::retention::removal::Removal;
use crate::schema::{Part, Schema, archive_index, queues};

/// `last_read_at` came with PGMQ 1.10. An upgraded queue may have it in one of its two tables only.
const PROBE: &str = "
    SELECT to_regclass('pgmq.' || quote_ident('a_' || $1)) IS NOT NULL AS has_archive,
           (SELECT count(*) = 2 FROM pg_catalog.pg_attribute
            WHERE attrelid IN (to_regclass('pgmq.' || quote_ident('q_' || $1)), to_regclass('pgmq.' || quote_ident('a_' || $1)))
              AND attname = 'last_read_at' AND NOT attisdropped) AS has_last_read";

pub(crate) struct Retentions {
    known: Mutex<HashMap<QueueName, QueueRetention>>,
    /// Whether a queue without a setting has an archive, as in tests that look at what was handled.
    archives_all: AtomicBool,
    trail: Schema,
}

impl Default for Retentions {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            archives_all: AtomicBool::new(false),
            trail: Schema::new(Part::Trail),
        }
    }
}

#[derive(Clone, Copy)]
struct QueueRetention {
    retention: Retention,
    removal: Option<Removal>,
    /// The index was created, or that was tried.
    is_indexed: bool,
}

impl QueueRetention {
    fn new(retention: Retention) -> Self {
        Self {
            retention,
            removal: None,
            is_indexed: false,
        }
    }
}

impl Retentions {
    /// Archives the messages of every queue that has no setting.
    pub(crate) fn archive_all(&self) {
        self.archives_all.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, queue: &QueueName, retention: Retention) {
        self.lock()
            .insert(queue.clone(), QueueRetention::new(retention));
    }

    /// The queues whose archive or trail has a limit of age.
    pub(crate) fn aged(&self) -> Vec<(QueueName, Retention)> {
        let known = self.lock();
        let aged = known
            .iter()
            .filter(|(_, known)| known.retention.keep().is_some());
        aged.map(|(queue, known)| (queue.clone(), known.retention))
            .collect()
    }

    /// How messages of a queue are removed. An absent archive or trail is created where `manage`
    /// allows it. Otherwise handled messages wait for it: the error is transient.
    pub(crate) async fn removal(
        &self,
        queue: &QueueName,
        control: &Dedicated,
        manage: bool,
    ) -> Result<Removal> {
        self.look(queue, control, manage)
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::SchemaMissing => {
                    let text = "handled events stay in the queue until the trail can be written";
                    Error::new(ErrorKind::Transient, text).with_source(error)
                }
                _ => error,
            })
    }

    async fn look(&self, queue: &QueueName, control: &Dedicated, manage: bool) -> Result<Removal> {
        let Some(known) = self.kept(queue) else {
            return Ok(Removal::Delete);
        };

        if let Some(removal) = known.removal {
            return Ok(removal);
        }

        if !known.retention.is_archive() {
            self.trail
                .ensure(control, control.connector(), manage)
                .await?;
            self.change(queue, |known| known.removal = Some(Removal::Trail));
            return Ok(Removal::Trail);
        }

        let mut found = find(queue, control).await?;
        if found.is_none() && manage {
            queues::create(queue, 1, control).await?;
            found = find(queue, control).await?;
        }

        let removal = found.ok_or_else(|| missing(queue))?;
        self.change(queue, |known| known.removal = Some(removal));
        Ok(removal)
    }

    /// Prepares the archive of a queue, if it is to have one: the table, and where `manage` allows
    /// it the index for histories.
    pub(crate) async fn ensure(
        &self,
        queue: &QueueName,
        control: &Dedicated,
        manage: bool,
    ) -> Result<()> {
        let Some(known) = self.kept(queue) else {
            return Ok(());
        };

        self.look(queue, control, manage).await?;
        if manage && !known.is_indexed && known.retention.is_archive() {
            // Once for this engine, whether it succeeds or not.
            self.change(queue, |known| known.is_indexed = true);
            // Without the index, histories are slower, and nothing else changes.
            if let Err(error) = archive_index::create_on_small(queue, control).await {
                ezq_core::private::warn!(%queue, ?error, "the archive has no index for histories");
            }
        }

        Ok(())
    }

    /// Forgets what was looked up of an archive.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.trail.forget();
        self.change(queue, |known| known.removal = None);
    }

    fn kept(&self, queue: &QueueName) -> Option<QueueRetention> {
        let mut known = self.lock();
        // Relaxed: it is set before the engine is used.
        if self.archives_all.load(Ordering::Relaxed) && !known.contains_key(queue) {
            known.insert(queue.clone(), QueueRetention::new(Retention::ARCHIVE));
        }
        known
            .get(queue)
            .copied()
            .filter(|known| known.retention != Retention::Delete)
    }

    fn change(&self, queue: &QueueName, change: impl FnOnce(&mut QueueRetention)) {
        if let Some(known) = self.lock().get_mut(queue) {
            change(known);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, QueueRetention>> {
        // A cache: what a panic leaves behind is asked for again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(queue: &QueueName, control: &Dedicated) -> Result<Option<Removal>> {
    let found = call!(control, |connection| async {
        let query = sqlx::query(PROBE).bind(queue.as_str());
        let row = query.fetch_one(connection).await?;
        let removal = Removal::Archive {
            last_read: row.try_get("has_last_read")?,
        };
        Ok(row.try_get::<bool, _>("has_archive")?.then_some(removal))
    })?;
    found.map_err(|failure| error::of(failure, control.place()))
}

pub(crate) fn missing(queue: &QueueName) -> Error {
    let text = format!(
        "the archive of the queue `{queue}` does not exist: check the name, or create it with \
         `select pgmq.create('{queue}')`"
    );
    Error::new(ErrorKind::QueueMissing, text)
}
