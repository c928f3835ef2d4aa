//! Connecting: what is checked on the first connection, and what an engine is made of.

use std::sync::{Arc, Mutex};

use ezq_core::Result;
use ezq_core::engine::Capabilities;
use tokio::time::{Instant, timeout_at};

use super::{Inner, PgmqEngine};
use crate::claim::cursor::ClaimCursors;
use crate::claim::keys::unindexed::Unindexed;
use crate::claim::keys::walk::KeyWalks;
use crate::config::PgmqConfig;
use crate::connection::connector::{Connector, Planning, Session, own_pool};
use crate::connection::dedicated::Dedicated;
use crate::connection::plans::Plans;
use crate::connection::pool::Pool;
use crate::connection::pooler;
use crate::connection::stop::Stopper;
use crate::error;
use crate::publish::group_commit::GroupCommit;
use crate::publish::store::Store;
use crate::retention::Retentions;
use crate::retention::sweep::Sweeper;
use crate::schema::queues::Queues;
use crate::schema::{Part, Schema, install};
use crate::settle::LockedRows;

/// `jsonb` takes no more in one text or array.
const MAX_BODY: usize = 268_435_455;

impl PgmqEngine {
    /// Connects, checks PGMQ, and installs it where it is absent and may be installed.
    ///
    /// The connect timeout bounds the call. An installation may take longer, but not for the lock
    /// that it waits for.
    ///
    /// # Errors
    /// Each says what to do:
    /// - [`ErrorKind::Connection`](ezq_core::ErrorKind::Connection) when the server cannot be reached
    /// - [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) when the options demand TLS
    ///   (`sslmode=require`) and the program is built without it
    /// - [`ErrorKind::Permission`](ezq_core::ErrorKind::Permission) when it refuses the login, or
    ///   where the schema `pgmq` or `ezq` belongs to a role that is not trusted
    /// - [`ErrorKind::DatabaseMissing`](ezq_core::ErrorKind::DatabaseMissing)
    /// - [`ErrorKind::Unsupported`](ezq_core::ErrorKind::Unsupported) behind a pooler that shares
    ///   sessions between transactions
    /// - [`ErrorKind::PgmqMissing`](ezq_core::ErrorKind::PgmqMissing) when PGMQ is absent and cannot
    ///   be installed, or is older than [`OLDEST_PGMQ`](crate::OLDEST_PGMQ)
    pub async fn connect(config: PgmqConfig) -> Result<Self> {
        ezq_core::private::check_runtime()?;
        config.validate()?;
        let connector = Connector::new(&config);
        let first = first_session(&connector, config.manage_schema).await?;

        let inner = Inner::new(&config, connector, first);
        inner.start_sweeping();
        inner.watch_runtime();
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

/// Opens the first connection, refuses what an engine cannot work with, and makes sure of PGMQ.
async fn first_session(connector: &Connector, manage_schema: bool) -> Result<Session> {
    let deadline = Instant::now() + connector.connect_timeout();
    let mut first = connector.open(Planning::Free).await?;

    // Before anything relies on a session.
    let refused = pooler::refuse(&mut first.connection, connector);
    match timeout_at(deadline, refused).await {
        Ok(result) => result?,
        Err(_) => {
            let late = error::timed_out(connector.place(), connector.connect_timeout());
            return Err(late);
        }
    }

    install::ensure(&mut first.connection, connector, manage_schema, deadline).await?;
    Ok(first)
}

impl Inner {
    fn new(config: &PgmqConfig, connector: Connector, first: Session) -> Self {
        let encoding = first.encoding;
        // It has no `urgent` of its own: its statements never wait for locks.
        let urgent = Arc::new(Dedicated::new(connector.clone(), Planning::Urgent, None));
        let by_index = || {
            let urgent = Some(Arc::clone(&urgent));
            Dedicated::new(connector.clone(), Planning::ByIndex, urgent)
        };

        let control = Dedicated::new(connector.clone(), Planning::Free, Some(Arc::clone(&urgent)));
        let control = Arc::new(control.with(first));

        let owns_pool = config.pool.is_none();
        let driver = match &config.pool {
            Some(pool) => pool.clone(),
            None => own_pool(config, &connector),
        };

        let pool = Arc::new(Pool::new(driver, owns_pool, connector.clone()));
        let stopper = Stopper {
            urgent: Arc::clone(&urgent),
            patience: connector.patience(Planning::Free),
        };

        let group_commit = GroupCommit::new(Store {
            pool: Arc::clone(&pool),
            place: connector.place().clone(),
            stopper: stopper.clone(),
        });

        let retentions = Arc::<Retentions>::default();
        for (queue, retention) in &config.retention {
            retentions.set(queue, *retention);
        }

        let sweeper = Sweeper {
            control: Arc::clone(&control),
            retentions: Arc::clone(&retentions),
            interval: config.sweep_interval,
        };

        Self {
            capabilities: capabilities(),
            encoding,
            manage_schema: config.manage_schema,
            restart_grace: config.restart_grace,
            pool,
            owns_pool,
            claim: by_index(),
            settle: by_index(),
            renew: by_index(),
            control,
            urgent,
            stopper,
            group_commit,
            queues: Queues::default(),
            retentions,
            sweeper,
            schema: Schema::new(Part::Engine),
            timetable: Schema::new(Part::Schedules),
            subscriptions: Schema::new(Part::Broadcast),
            replays: Schema::new(Part::Replays),
            key_walks: KeyWalks::default(),
            unindexed: Unindexed::default(),
            cursors: ClaimCursors::default(),
            plans: Plans::default(),
            wake: Arc::default(),
            locked: LockedRows::default(),
            tasks: Mutex::default(),
            connector,
        }
    }
}

fn capabilities() -> Capabilities {
    let mut capabilities = Capabilities::new("pgmq");
    capabilities.durable = true;
    capabilities.delayed = true;
    capabilities.dedupe = true;
    capabilities.ordered = true;
    capabilities.archive = true;
    capabilities.transactions = true;
    capabilities.keys = true;
    capabilities.schedules = true;
    capabilities.max_body = Some(MAX_BODY);
    capabilities
}
