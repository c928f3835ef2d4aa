//! One connection of the engine's own, opened when first used and opened again when it broke.
//!
//! Claiming, settling and renewing each have one, so that none waits for the other or for the
//! application's pool. A connection that is not [returned](Checkout::end), because the call failed
//! or its future was dropped, is closed: what it was doing is unknown.

use std::future::Future;
use std::time::Duration;

use ezq_core::Result;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};

use crate::config::{PgmqConfig, Place};
use crate::error;

const PATIENCE: Duration = Duration::from_secs(30);
/// A worker whose connection died in silence hears of no event for as long as it waits for this.
const PATIENCE_BY_INDEX: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Statements rely on each row being judged as it is now; a server's default may say otherwise.
pub(crate) const ISOLATION: &str = "SET default_transaction_isolation = 'read committed'";
/// A peer that vanished is noticed within a minute. A pooler or platform may refuse these.
const LIVENESS: [&str; 4] = [
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
    "SET client_connection_check_interval = 10000",
];
/// These connections reach queue tables by key or in `vt` order only, and a plan made while a table
/// was small is kept while it grows. There is one way to run them, whatever the parameters: planning
/// a claim anew takes a fifth of its time. What it may cost at most says nothing of what it costs, so
/// compiling it would take longer than running it.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
                        SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET plan_cache_mode = force_generic_plan; SET jit = off";

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    options: PgConnectOptions,
    place: Place,
    connect_timeout: Duration,
    statement_timeout: Option<Duration>,
}

impl Connector {
    pub(crate) fn new(config: &PgmqConfig) -> Self {
        let mut options = config.options.clone();
        if options.get_application_name().is_none() {
            options = options.application_name("ezq");
        }
        Self {
            place: Place::of(&options),
            options,
            connect_timeout: config.connect_timeout,
            statement_timeout: config.statement_timeout,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// How long a statement may take that is planned so.
    pub(crate) fn patience(&self, planning: Planning) -> Duration {
        self.statement_timeout.unwrap_or(match planning {
            Planning::ByIndex => PATIENCE_BY_INDEX,
            Planning::Free => PATIENCE,
        })
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let open = async {
            let mut connection = self.options.connect().await?;
            sqlx::raw_sql(ISOLATION).execute(&mut connection).await?;
            keep_alive(&mut connection).await?;
            Ok(connection)
        };
        match timeout(self.connect_timeout, open).await {
            Ok(result) => result.map_err(|failure| error::of(failure, &self.place)),
            Err(_) => Err(error::timed_out(&self.place, self.connect_timeout)),
        }
    }
}

/// Lets the server notice when the peer of a connection has vanished, as far as it takes the
/// settings: what its transaction holds is free then.
pub(crate) async fn keep_alive(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for setting in LIVENESS {
        if let Err(refused) = sqlx::raw_sql(setting).execute(&mut *connection).await
            && !error::keeps_connection(&refused)
        {
            return Err(refused);
        }
    }
    Ok(())
}

/// How a link's statements are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planning {
    /// By index only: claiming, settling, renewing.
    ByIndex,
    /// As the server finds best.
    Free,
}

/// The connection, or what is known about the last attempt to open it.
#[derive(Default)]
struct Slot {
    connection: Option<PgConnection>,
    next_attempt: Option<Instant>,
    pause: Duration,
}

pub(crate) struct Link {
    connector: Connector,
    planning: Planning,
    slot: Mutex<Slot>,
}

impl Link {
    pub(crate) fn new(connector: Connector, planning: Planning) -> Self {
        Self { connector, planning, slot: Mutex::default() }
    }

    /// What opens its connection.
    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A link that begins with a connection made already.
    pub(crate) fn with(connector: Connector, planning: Planning, connection: PgConnection) -> Self {
        let slot = Slot { connection: Some(connection), ..Slot::default() };
        Self { connector, planning, slot: Mutex::new(slot) }
    }

    /// Waits until no other call uses the connection, and opens it if need be. After a failure the
    /// next attempts wait, up to a second.
    pub(crate) async fn checkout(&self) -> Result<Checkout<'_>> {
        let mut slot = self.slot.lock().await;
        let connection = match slot.connection.take() {
            Some(connection) => connection,
            None => self.open(&mut slot).await?,
        };
        let patience = self.connector.patience(self.planning);
        Ok(Checkout { connector: &self.connector, patience, slot, connection })
    }

    /// Closes the connection politely, if it is open.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.slot.lock().await.connection.take() {
            let _ = timeout(Duration::from_secs(1), connection.close()).await;
        }
    }

    async fn open(&self, slot: &mut Slot) -> Result<PgConnection> {
        if let Some(next) = slot.next_attempt {
            tokio::time::sleep_until(next).await;
        }
        slot.pause = (slot.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        // Jitter, so that a fleet does not come back in step.
        let pause = slot.pause.mul_f64(rand::random_range(0.5..1.0));
        slot.next_attempt = Some(Instant::now() + pause);
        let mut connection = self.connector.connect().await?;
        if self.planning == Planning::ByIndex {
            let set = sqlx::raw_sql(BY_INDEX).execute(&mut connection);
            let result = limit(self.connector.connect_timeout, set).await;
            result.map_err(|failure| error::of(failure, self.connector.place()))?;
        }
        slot.pause = Duration::ZERO;
        slot.next_attempt = None;
        Ok(connection)
    }
}

/// The connection, for one call alone.
pub(crate) struct Checkout<'a> {
    connector: &'a Connector,
    patience: Duration,
    slot: MutexGuard<'a, Slot>,
    connection: PgConnection,
}

impl Checkout<'_> {
    pub(crate) fn place(&self) -> &Place {
        &self.connector.place
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.patience
    }

    /// Gives the connection back if it can be used again.
    pub(crate) fn end<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let Self { mut slot, connection, .. } = self;
        match &result {
            Err(failure) if !error::keeps_connection(failure) => {}
            _ => slot.connection = Some(connection),
        }
        result
    }
}

/// Waits for statements, as long as they may take.
pub(crate) async fn limit<T>(
    limit: Duration,
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match timeout(limit, statements).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("no answer within {limit:?}");
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
            Err(sqlx::Error::Io(source))
        }
    }
}
