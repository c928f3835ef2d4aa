//! Opening dedicated connections, and the settings of their sessions.
//!
//! Every statement of a session ends on the server: it waits at most a second for a lock, and has a
//! time limit shorter than its client's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ezq_core::Result;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor as _, PgPool, Row as _};
use tokio::time::timeout;

use crate::config::{OptionsFrom, PgmqConfig, Place, Target, tls};
use crate::connection::measured::Counted;
use crate::connection::runtime::Runtime;
use crate::error;
use crate::message::encoding::Encoding;
use crate::sql::leases::Sign;

const PATIENCE: Duration = Duration::from_secs(30);
/// If a worker's connection died without notice, the worker gets no event for this long.
const PATIENCE_BY_INDEX: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock. It is tried again later.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// A pooled connection that was idle for this long is pinged before use.
const IDLE: Duration = Duration::from_millis(500);
/// How long closing a connection may take.
const CLOSING: Duration = Duration::from_secs(1);

/// Statements rely on seeing each row as it is now. The server's default may differ.
pub(crate) const ISOLATION: &str = "SET default_transaction_isolation = 'read committed'";
/// Pins the search path. Otherwise whoever may create in a schema of the path could define a
/// function or operator that fits better than the server's own, and have it run with the rights of
/// this role. String settings of the role would break PGMQ's functions.
pub(crate) const PINNED: &str =
    "SET search_path = pg_catalog, pg_temp; SET standard_conforming_strings = on";
/// With these, a vanished peer is noticed within a minute. A pooler or a platform may refuse them.
const LIVENESS: [&str; 4] = [
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
    "SET client_connection_check_interval = 10000",
];
/// Plans that stay good while a table grows. These connections reach queue tables by key or in `vt`
/// order only. A cached plan may date from when the table was small.
///
/// One plan serves all parameters: planning a claim again takes a fifth of its time. JIT is off:
/// the planner overestimates the cost, and compiling would take longer than running.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
                        SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET plan_cache_mode = force_generic_plan; SET jit = off";

/// How statements of a dedicated connection are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planning {
    /// By index only: claiming, settling, renewing.
    ByIndex,
    /// Freely.
    Free,
    /// Freely, with the rights of the login itself.
    Urgent,
}

/// A connection, the process id of its backend, and the encoding of its database.
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
    pub(crate) pid: i32,
    pub(crate) encoding: Encoding,
    /// The sign that it holds.
    pub(crate) holds: Option<Sign>,
    /// Counts it among those that are open, for one purpose.
    pub(crate) counted: Counted,
}

impl Session {
    pub(crate) async fn close(self) {
        let _ = timeout(CLOSING, self.connection.close()).await;
    }
}

/// Rare statements are planned for their parameters and for the tables as they are.
const FOR_EACH_CALL: &str = "SET plan_cache_mode = force_custom_plan";
/// A row policy would make a queue look empty: this makes it an error.
const ALL_ROWS: &str = "SET row_security = off";

/// How many statements a session that claims or settles keeps prepared. Each queue has a few of its own, and
/// one that is not kept is planned at each call.
const KEPT_STATEMENTS: usize = 1000;

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    /// Where the options come from, if they may change, as a password does.
    source: Option<OptionsFrom>,
    options: PgConnectOptions,
    /// The server that each session must have reached.
    target: Target,
    place: Place,
    connect_timeout: Duration,
    statement_timeout: Option<Duration>,
    pub(crate) runtime: Runtime,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("place", &self.place.to_string())
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(config: &PgmqConfig) -> Self {
        let mut source = config.options_from.clone();
        // The pool's options are read anew for each connection: its password may change.
        if let (None, Some(pool)) = (&source, &config.pool) {
            let pool = pool.clone();
            source = Some(Arc::new(move || {
                PgConnectOptions::clone(&pool.connect_options())
            }));
        }

        let mut options = config.options.clone();
        if options.get_application_name().is_none() {
            options = options.application_name("ezq");
        }

        Self {
            source,
            place: Place::of(&options),
            options,
            target: config.target,
            connect_timeout: config.connect_timeout,
            statement_timeout: config.statement_timeout,
            runtime: Runtime::default(),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The options as of now.
    pub(crate) fn options(&self) -> PgConnectOptions {
        let Some(source) = &self.source else {
            return self.options.clone();
        };
        let name = self.options.get_application_name().unwrap_or("ezq");
        source().application_name(name)
    }

    /// How long a call with this planning may take.
    pub(crate) fn patience(&self, planning: Planning) -> Duration {
        self.statement_timeout.unwrap_or(match planning {
            Planning::ByIndex => PATIENCE_BY_INDEX,
            Planning::Free | Planning::Urgent => PATIENCE,
        })
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// A connection with the settings that the role has, and none of ezq's.
    pub(crate) async fn plain(&self) -> Result<PgConnection> {
        let options = self.options();
        tls::check(&options)?;
        let opened = timeout(self.connect_timeout, options.connect())
            .await
            .map_err(|_| error::timed_out(&self.place, self.connect_timeout))?;
        opened.map_err(|failure| error::of(failure, &self.place))
    }

    /// A connection for one call, freely planned.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(self.open(Planning::Free).await?.connection)
    }

    pub(crate) async fn open(&self, planning: Planning) -> Result<Session> {
        let mut options = self.options();
        tls::check(&options)?;
        if planning == Planning::ByIndex {
            options = options.statement_cache_capacity(KEPT_STATEMENTS);
        }

        let open = async {
            let mut connection = options.connect().await?;
            let row = sqlx::raw_sql(AssertSqlSafe(self.settings(planning)));
            let row = row.fetch_one(&mut connection).await?;
            let pid = row.try_get(0)?;
            let encoding = Encoding::of(row.try_get(1)?);
            let is_missed: bool = row.try_get(2)?;
            keep_alive(&mut connection).await?;

            let session = Session {
                connection,
                pid,
                encoding,
                holds: None,
                counted: Default::default(),
            };
            Ok((session, is_missed))
        };

        let opened = timeout(self.connect_timeout, open)
            .await
            .map_err(|_| error::timed_out(&self.place, self.connect_timeout))?;
        let (session, is_missed) = opened.map_err(|failure| error::of(failure, &self.place))?;
        if is_missed {
            session.close().await;
            return Err(error::read_only(&self.place));
        }
        Ok(session)
    }

    /// The settings of a session. They answer with its process id, the encoding, and whether it has
    /// reached a wrong server.
    fn settings(&self, planning: Planning) -> String {
        let patience = self.patience(planning);
        // The server would take zero for "no limit".
        let millis = |time: Duration| time.as_millis().clamp(1, i32::MAX as u128);
        let lock = millis(LOCK_TIMEOUT.min(patience / 2));

        // The client waits longer, for the way there and back.
        let statement = millis(patience.mul_f64(0.8));
        let planned = match planning {
            Planning::ByIndex => BY_INDEX,
            Planning::Free => FOR_EACH_CALL,
            // A session may see and cancel others of its login only with the rights of the login
            // itself, not of a role that it is set to.
            Planning::Urgent => "SET ROLE NONE",
        };

        let is_missed = self.target.is_missed();
        format!(
            "{PINNED}; {ISOLATION}; {ALL_ROWS}; SET lock_timeout = {lock}; \
             SET statement_timeout = {statement}; {planned}; \
             SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_encoding'), \
                    {is_missed}"
        )
    }
}

/// Lets the server notice when the client has vanished, as far as it accepts the settings. Then the
/// locks of its transaction are released.
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

/// Refuses a connection of the pool that has reached a wrong server. The pool logs the error and
/// connects again, until its time is up.
async fn check_target(connection: &mut PgConnection, target: Target) -> Result<(), sqlx::Error> {
    if target == Target::Any {
        return Ok(());
    }
    let question = AssertSqlSafe(format!("SELECT {}", target.is_missed()));
    let answer = sqlx::raw_sql(question).fetch_one(connection).await?;
    if answer.try_get(0)? {
        let text = "the server takes no writes, and the database URL asks for one that does";
        return Err(sqlx::Error::Configuration(text.into()));
    }
    Ok(())
}

/// The pool for publishing and transactions, where the application has none.
pub(crate) fn own_pool(config: &PgmqConfig, connector: &Connector) -> PgPool {
    let target = config.target;
    PgPoolOptions::new()
        .max_connections(config.pool_size())
        .acquire_timeout(config.connect_timeout)
        // A ping before every use would double the round trips of a publish.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > IDLE {
                    sqlx::Connection::ping(connection).await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(ISOLATION).await?;
                check_target(connection, target).await?;
                keep_alive(connection).await
            })
        })
        .connect_lazy_with(connector.options())
}
