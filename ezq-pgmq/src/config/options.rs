//! The options of an engine: which database, and what the engine may do there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ezq_core::message::{IntoQueueName, QueueName, Retention};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use super::parameters::Target;
use super::place::Place;

/// No server allows more (`MAX_BACKENDS`), and a pool allocates a place for each.
const MOST_CONNECTIONS: u32 = 262_143;
/// The most partitions that a queue may have. Each statement on the whole queue visits all of them.
pub(crate) const MOST_PARTITIONS: u32 = 16;
/// About a century. sqlx adds the connect timeout to the present time, which must not overflow.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Provides the options for a new connection.
pub(crate) type OptionsFrom = Arc<dyn Fn() -> PgConnectOptions + Send + Sync>;

/// How to reach the database, and what the engine may do there.
///
/// ```
/// use ezq_pgmq::PgmqConfig;
///
/// let config = PgmqConfig::url("postgres://app:secret@localhost/app")?.manage_schema(false);
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Clone)]
pub struct PgmqConfig {
    pub(crate) options: PgConnectOptions,
    pub(crate) options_from: Option<OptionsFrom>,
    pub(crate) target: Target,
    pub(crate) pool: Option<PgPool>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) manage_schema: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) statement_timeout: Option<Duration>,
    pub(crate) restart_grace: Option<Duration>,
    pub(crate) retention: Vec<(QueueName, Retention)>,
    pub(crate) partitions: Vec<(QueueName, u32)>,
    /// For all queues that are not in `partitions`.
    pub(crate) default_partitions: u32,
    /// What was wrong with the first queue named for an option that is none. Told by `validate`.
    pub(crate) invalid_queue: Option<Arc<Error>>,
    pub(crate) sweep_interval: Duration,
    pub(crate) vacuum: bool,
}

impl PgmqConfig {
    /// A database by its URL, `postgres://user:password@host:port/database`. Parameters such as
    /// `sslmode` and `host` (a socket's folder) are those of libpq, as far as the driver knows
    /// them. Several hosts, `service` and `sslpassword` are refused.
    ///
    /// With `target_session_attrs=read-write` or `primary`, each connection that leads to a standby is
    /// refused; `read-write` also refuses a server whose transactions are read-only by default. The
    /// other values of libpq are refused, since ezq writes. `channel_binding` may be `prefer` or
    /// `disable`: the driver does no channel binding, so `require` is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] when it is not such a URL. The message does not repeat it,
    /// since it may hold a password.
    pub fn url(url: &str) -> Result<Self> {
        let url = crate::config::url::read(url)?;
        Ok(Self {
            target: url.target,
            ..Self::options(url.options)
        })
    }

    /// The development Postgres of this process, started by the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] without the feature `embedded`, which is for development and
    /// tests, or where no Postgres is installed.
    pub async fn embedded() -> Result<Self> {
        #[cfg(feature = "embedded")]
        {
            let server = crate::embedded::EmbeddedPostgres::shared().await?;
            tracing::info!("using a development Postgres: set DATABASE_URL for another database");
            Ok(Self::options(server.connect_options()))
        }

        #[cfg(not(feature = "embedded"))]
        Err(ezq_core::Error::new(
            ezq_core::ErrorKind::Configuration,
            "no database: set EZQ_DATABASE_URL or DATABASE_URL to \
             postgres://user:password@host/database; for development, the feature `embedded` of \
             ezq starts one",
        ))
    }

    /// A database by the driver's own options.
    #[must_use]
    pub fn options(options: PgConnectOptions) -> Self {
        Self {
            options,
            options_from: None,
            target: Target::default(),
            pool: None,
            max_connections: None,
            manage_schema: true,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: None,
            restart_grace: None,
            retention: Vec::new(),
            partitions: Vec::new(),
            default_partitions: 1,
            invalid_queue: None,
            sweep_interval: Duration::from_secs(60),
            vacuum: true,
        }
    }

    /// Where the options for each new connection come from, such as a file with a password that
    /// changes. It is called whenever ezq opens a connection, and must not block. User, password,
    /// host and TLS may change; the database must stay the same.
    ///
    /// With a [pool](Self::pool) of the application it is not needed: ezq uses the options that the
    /// pool has at the time ([`PgPool::set_connect_options`](sqlx::Pool::set_connect_options)).
    #[must_use]
    pub fn options_from(
        mut self,
        options: impl Fn() -> PgConnectOptions + Send + Sync + 'static,
    ) -> Self {
        self.options_from = Some(Arc::new(options));
        self
    }

    /// The database of a pool that the application has. Publishing and transactions use the pool.
    /// All else opens six dedicated connections with the pool's options, a few more while
    /// statements wait for others' locks, and one while it [vacuums](Self::vacuum). A pool of one connection works.
    #[must_use]
    pub fn pool(pool: PgPool) -> Self {
        let options = PgConnectOptions::clone(&pool.connect_options());
        Self {
            pool: Some(pool),
            ..Self::options(options)
        }
    }

    /// How many connections the engine's own pool may open for publishing and transactions, at
    /// least 1. Refused together with a [pool](Self::pool) of the application, which has its own
    /// limit. Defaults to 10.
    #[must_use]
    pub fn max_connections(mut self, max: u32) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Whether PGMQ, queues and ezq's own tables are created where they are absent. With `false` no
    /// statement that changes the schema is sent, and what is absent is an error. Defaults to
    /// `true`.
    #[must_use]
    pub fn manage_schema(mut self, manage: bool) -> Self {
        self.manage_schema = manage;
        self
    }

    /// How long connecting may take, for each connection. Defaults to 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.min(FOR_EVER);
        self
    }

    /// How long the engine waits for one of its own statements before it gives the connection up
    /// and opens another. If connections die without notice, a worker gets no event for this long.
    ///
    /// Defaults to 10 s for claiming, renewing and settling, which reach few rows by index, and to
    /// 30 s for all else, publishing included. A statement that is given up is stopped on the
    /// server. On ezq's dedicated connections the server itself ends statements after four fifths
    /// of this time.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }

    /// For how long after a start of the server messages that were leased before are left to their
    /// holders, so that these can renew. Defaults to half a lease, at least 2 s.
    #[must_use]
    pub fn restart_grace(mut self, grace: Duration) -> Self {
        self.restart_grace = Some(grace);
        self
    }

    /// What becomes of a queue's messages when they are acknowledged: deleted, or moved to PGMQ's
    /// archive `pgmq.a_<queue>`. The application's own setting takes precedence
    /// ([`AppBuilder::retention`](ezq_core::app::AppBuilder::retention)). Defaults to
    /// [`Retention::Delete`].
    ///
    /// A text that is no queue name is an [`ErrorKind::InvalidQueueName`] when the engine connects.
    #[must_use]
    pub fn retention(mut self, queue: impl IntoQueueName, retention: Retention) -> Self {
        match queue.into_queue_name() {
            Ok(queue) => self.retention.push((queue, retention)),
            Err(error) => {
                self.invalid_queue.get_or_insert_with(|| Arc::new(error));
            }
        }
        self
    }

    /// How many partitions a queue gets when it is created, 1 to 16: tables over which Postgres spreads its
    /// events by their ordering keys, so that consumers seldom meet in one. Defaults to 1, one table for all.
    ///
    /// A queue that exists keeps the number that it has, and works with any: if it is another one, a warning
    /// says so. [`partition_queue`](crate::PgmqEngine::partition_queue) changes it, as does the command
    /// `ezq queue partition`.
    ///
    /// A text that is no queue name is an [`ErrorKind::InvalidQueueName`] when the engine connects.
    #[must_use]
    pub fn partitions(self, queue: impl IntoQueueName, partitions: u32) -> Self {
        self.partitions_of(queue.into_queue_name(), partitions)
    }

    /// The same for a name that was parsed, or could not be.
    #[doc(hidden)]
    #[must_use]
    pub fn partitions_of(mut self, queue: Result<QueueName>, partitions: u32) -> Self {
        match queue {
            Ok(queue) => self.partitions.push((queue, partitions)),
            Err(error) => {
                self.invalid_queue.get_or_insert_with(|| Arc::new(error));
            }
        }
        self
    }

    /// Creates every queue with so many partitions, for the suite that every engine passes.
    #[doc(hidden)]
    #[must_use]
    pub fn partition_all(mut self, partitions: u32) -> Self {
        self.default_partitions = partitions;
        self
    }

    /// How often expired messages of archives and trails are removed, with jitter; see
    /// [`PgmqEngine::sweep`](crate::PgmqEngine::sweep). Must not be zero. Defaults to 1 min.
    #[must_use]
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Whether the engine vacuums the tables of busy queues, where the role may: as their owner, the owner of
    /// the database, or from PostgreSQL 17 on with the right `MAINTAIN`. It does so once a table has 10,000 dead
    /// rows and as many as a fifth of its live ones, on one more connection that it opens for that. Nobody
    /// waits for it. With `false`, dead rows wait for autovacuum. Defaults to `true`.
    #[must_use]
    pub fn vacuum(mut self, vacuum: bool) -> Self {
        self.vacuum = vacuum;
        self
    }

    /// The name under which `pg_stat_activity` shows the engine's connections. Defaults to what
    /// the URL, the pool or `PGAPPNAME` says, else `ezq`.
    #[must_use]
    pub fn application_name(mut self, name: &str) -> Self {
        self.options = self.options.application_name(name);
        self
    }

    /// How many connections the engine's own pool may open.
    pub(crate) fn pool_size(&self) -> u32 {
        self.max_connections.unwrap_or(10).min(MOST_CONNECTIONS)
    }

    /// Checks that every option has an effect.
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(error) = &self.invalid_queue {
            return Err(error.without_source());
        }

        let durations = [
            ("connect_timeout", Some(self.connect_timeout)),
            ("statement_timeout", self.statement_timeout),
            ("sweep_interval", Some(self.sweep_interval)),
        ];
        for (name, duration) in durations {
            if duration == Some(Duration::ZERO) {
                return wrong(format!("`{name}` must be longer than zero"));
            }
        }

        if self
            .retention
            .iter()
            .any(|(_, keeps)| keeps.keep() == Some(Duration::ZERO))
        {
            return wrong("an archive must keep events for longer than zero");
        }

        let mut partitions = self.partitions.iter();
        if let Some((queue, _)) =
            partitions.find(|(_, count)| !(1..=MOST_PARTITIONS).contains(count))
        {
            return wrong(format!(
                "the queue `{queue}` may have 1 to {MOST_PARTITIONS} partitions"
            ));
        }

        match (self.max_connections, &self.pool) {
            (Some(0), _) => wrong("`max_connections` must be at least 1"),
            (Some(_), Some(_)) => wrong(
                "`max_connections` is for the engine's own pool: set the limit on the pool that \
                 you give",
            ),
            _ => Ok(()),
        }
    }
}

fn wrong(why: impl Into<String>) -> Result<()> {
    Err(Error::new(ErrorKind::Configuration, why))
}

impl fmt::Debug for PgmqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgmqConfig")
            .field("place", &Place::of(&self.options).to_string())
            .field("pool", &self.pool.is_some())
            .field("manage_schema", &self.manage_schema)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ezq_core::ErrorKind;

    use super::*;

    #[test]
    fn refuses_what_is_no_url_without_repeating_it() {
        for url in [
            "",
            "secret",
            "mysql://a:secret@h/d",
            "postgres://a:secret@h:port/d",
        ] {
            let error = PgmqConfig::url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{url}");
        }
    }

    #[test]
    fn names_the_place_without_the_password() {
        let config = PgmqConfig::url("postgres://app:secret@db.example:6543/shop").unwrap();
        let place = Place::of(&config.options).to_string();
        assert_eq!(place, "app@db.example:6543/shop");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
