//! Connecting: what is checked on the first connection, and what an engine is made of.

use std::sync::{Arc, Mutex};

use ezq_core::Result;
use ezq_core::engine::Capabilities;
use tokio::time::{Instant, timeout_at};

use super::PgmqEngine;
use super::connections::Connections;
use super::state::{ClaimState, Inner, KnownQueues, OwnTables, Settings};
use crate::admin::recent::Recent;
use crate::config::PgmqConfig;
use crate::connection::connector::{Connector, Planning, Session};
use crate::connection::plans::Plans;
use crate::connection::pooler;
use crate::error;
use crate::holders::HolderBoard;
use crate::message::receipts::ENGINE;
use crate::publish::group_commit::GroupCommit;
use crate::publish::recipients::Recipients;
use crate::publish::store::Store;
use crate::retention::Retentions;
use crate::retention::sweep::Sweeper;
use crate::retention::vacuum::Vacuum;
use crate::schema::install;
use crate::schema::queues::Queues;
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
        let settings = Settings {
            capabilities: capabilities(),
            encoding: first.encoding,
            manage_schema: config.manage_schema,
            restart_grace: config.restart_grace,
        };
        let connections = Connections::new(config, connector, first);

        let group_commit = GroupCommit::new(Store {
            pool: Arc::clone(&connections.pool),
            place: connections.connector.place().clone(),
            stopper: connections.stopper.clone(),
        });

        let retentions = Arc::<Retentions>::default();
        for (queue, retention) in &config.retention {
            retentions.set(queue, *retention);
        }

        let sweeper = Sweeper {
            control: Arc::clone(&connections.control),
            retentions: Arc::clone(&retentions),
            interval: config.sweep_interval,
        };

        let vacuum = config.vacuum.then(|| {
            let control = Arc::clone(&connections.control);
            Arc::new(Vacuum::new(control, Arc::clone(&connections.urgent)))
        });

        let holders = HolderBoard::new(Arc::clone(&connections.sign));
        let known = KnownQueues {
            queues: Queues::new(&config.partitions, config.default_partitions),
            retentions,
            locked: LockedRows::default(),
            recipients: Recipients::default(),
            stats: Recent::default(),
            lags: Recent::default(),
        };

        Self {
            settings,
            connections,
            known,
            claims: ClaimState::default(),
            tables: OwnTables::new(),
            plans: Plans::default(),
            group_commit,
            sweeper,
            vacuum,
            wake: Arc::default(),
            holders: Arc::new(holders),
            looks: Arc::default(),
            tasks: Mutex::default(),
        }
    }
}

fn capabilities() -> Capabilities {
    let mut capabilities = Capabilities::new(ENGINE);
    capabilities.durable = true;
    capabilities.delayed = true;
    capabilities.movable = true;
    capabilities.dedupe = true;
    capabilities.ordered = true;
    capabilities.archive = true;
    capabilities.transactions = true;
    capabilities.keys = true;
    capabilities.schedules = true;
    capabilities.max_body = Some(MAX_BODY);
    capabilities
}
