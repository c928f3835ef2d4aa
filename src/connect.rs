//! [`Ezq`], an application on PGMQ, and its builder: an application's options and the choice of the
//! database.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use ezq_core::Result;
use ezq_core::app::{App, AppBuilder, Module};
use ezq_core::codec::Codec;
use ezq_core::config::Config;
use ezq_core::engine::Engine;
use ezq_core::event::Event;
use ezq_core::handler::{Handler, HandlerDefinition, Layer};
use ezq_core::message::{IntoQueueName, Retention};
use ezq_core::observe::{Notice, Tracer};
use ezq_core::schedule::Schedule;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgConnection, PgPool};

/// An application whose events are stored by PGMQ.
///
/// It dereferences to [`App`], and adds what only Postgres offers. Clones share one application.
///
/// ```no_run
/// use ezq::prelude::*;
///
/// # #[derive(ezq::Event, serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
/// # async fn example() -> ezq::Result<()> {
/// let ezq = Ezq::connect().await?;
/// ezq.publish(&Paid { order: 7 }).await?;
/// let report = ezq.consumer().stop_on_signals().run().await?;
/// println!("{report}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Ezq {
    app: App,
    engine: PgmqEngine,
}

impl Ezq {
    /// Connects with the options of the environment; see [`Config`].
    ///
    /// The database is the first of these, as [`PgmqConfig::from_env`] tells in full:
    ///
    /// 1. `EZQ_DATABASE_URL`,
    /// 2. `DATABASE_URL`,
    /// 3. with the feature `embedded`, a development Postgres that this process starts.
    ///
    /// # Errors
    /// As [`EzqBuilder::connect`].
    pub async fn connect() -> Result<Self> {
        Self::builder().connect().await
    }

    /// Begins an application whose options are set in code, over those of the environment.
    pub fn builder() -> EzqBuilder {
        EzqBuilder::default()
    }

    /// The pool that publishing uses. It is the application's own if it gave one to
    /// [`EzqBuilder::pool`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.engine.pool()
    }

    /// The engine, for what only PGMQ offers.
    #[must_use]
    pub fn pgmq(&self) -> &PgmqEngine {
        &self.engine
    }

    /// Takes the lock of an ordering key until the caller's transaction ends.
    ///
    /// Events of one key are handled in the order of their ids. An event gets its id when it is
    /// published, not when its transaction commits. So of two transactions that publish events of one
    /// key at once, the second may commit first, and its event may be handled first.
    ///
    /// Where that matters, take this lock before publishing: the second transaction waits until the
    /// first has ended.
    ///
    /// ```no_run
    /// # use ezq::prelude::*;
    /// # #[derive(ezq::Event, serde::Serialize, serde::Deserialize)]
    /// # #[event(key = "account")] struct Moved { account: i64 }
    /// # async fn example(ezq: Ezq) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = ezq.pool().begin().await?;
    /// ezq.lock_key(&mut tx, "accounts", "7").await?;
    /// ezq.publish(&Moved { account: 7 }).queue("accounts").within(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`](ezq_core::ErrorKind::InvalidQueueName) for a wrong name, before
    /// anything is sent. Otherwise an error of the database, after which the transaction can only be rolled
    /// back.
    pub async fn lock_key(
        &self,
        connection: &mut PgConnection,
        queue: impl IntoQueueName,
        key: &str,
    ) -> Result<()> {
        let queue = queue.into_queue_name()?;
        self.engine.lock_key(connection, &queue, key).await
    }
}

impl Deref for Ezq {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

/// Builds an [`Ezq`]. Options that are set here take precedence over the environment.
//
// Most methods forward to `AppBuilder` by hand. Each alternative reads worse where it is used: `Deref`
// does not lend a builder that is passed by value, an extension trait for `connect` must be imported
// by every program's first line, a macro for both builders hides the methods from readers and tools,
// and a closure (`.app(|app| app.register(..))`) nests every call.
#[derive(Debug, Default)]
#[must_use]
pub struct EzqBuilder {
    app: AppBuilder,
    database: Database,
    changes: Changes,
}

/// What the program changes in the options of the engine, in the order in which it said so.
#[derive(Default)]
struct Changes(Vec<Box<dyn FnOnce(PgmqConfig) -> PgmqConfig + Send>>);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes", self.0.len())
    }
}

#[derive(Default)]
enum Database {
    #[default]
    Environment,
    Url(String),
    Options(Box<PgConnectOptions>),
    Pool(PgPool),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::Url(_) => "Url(..)",
            Self::Options(_) => "Options(..)",
            Self::Pool(_) => "Pool(..)",
        })
    }
}

impl EzqBuilder {
    /// An application for a test, on the test's own database.
    pub(crate) fn for_test(app: AppBuilder, options: PgConnectOptions) -> Self {
        Self {
            app,
            ..Self::default()
        }
        .database_options(options)
    }

    /// Connects to this database in place of the environment's.
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database = Database::Url(url.into());
        self
    }

    /// Connects to a database by the driver's own options, in place of the environment's: for what a
    /// URL cannot say, such as certificates that are not files.
    pub fn database_options(mut self, options: PgConnectOptions) -> Self {
        self.database = Database::Options(Box::new(options));
        self
    }

    /// Uses the application's own pool for publishing and transactions. Defaults to a pool of at most
    /// 10 connections.
    ///
    /// Consumers claim, renew, settle and listen on connections of their own. They open these to the
    /// same database with the pool's options, and take none from the pool, so a pool of one works.
    pub fn pool(mut self, pool: PgPool) -> Self {
        self.database = Database::Pool(pool);
        self
    }

    /// Whether to create PGMQ, queues and ezq's own tables where they are missing. With `false`, ezq
    /// never sends a statement that changes the schema. Defaults to true.
    pub fn manage_schema(self, manage: bool) -> Self {
        self.configure(|config| config.manage_schema = manage)
    }

    /// Limits the time that connecting may take. Defaults to 5 s.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.configure(|config| config.connect_timeout = timeout)
    }

    /// Changes options of the engine that only PGMQ has; see [`PgmqConfig`]. The function gets them with
    /// the database, and with what [`manage_schema`](Self::manage_schema) and
    /// [`connect_timeout`](Self::connect_timeout) say or the environment says; what it returns is used.
    /// Of several functions, each gets what the one before it returned.
    ///
    /// ```no_run
    /// use ezq::prelude::*;
    /// use std::time::Duration;
    ///
    /// # async fn example() -> ezq::Result<()> {
    /// let ezq = Ezq::builder()
    ///     .configure_pgmq(|pgmq| pgmq.statement_timeout(Duration::from_secs(5)).max_connections(4))
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn configure_pgmq(
        mut self,
        change: impl FnOnce(PgmqConfig) -> PgmqConfig + Send + 'static,
    ) -> Self {
        self.changes.0.push(Box::new(change));
        self
    }

    /// Changes options; see [`Config`]. The function gets them as the environment sets them.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        self.app = self.app.configure(change);
        self
    }

    /// Gives state to handlers that take `State<T>`, one value for each type. `State<PgPool>` is the
    /// [pool](Ezq::pool) unless another is given here.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.app = self.app.state(state);
        self
    }

    /// Gives state that is a part of another one; see [`AppBuilder::state_from`].
    pub fn state_from<S, T>(mut self, part: impl Fn(&S) -> T + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        self.app = self.app.state_from(part);
        self
    }

    /// Leaves out the handlers that were found at link time. Only handlers that are registered here
    /// run.
    pub fn without_discovered_handlers(mut self) -> Self {
        self.app = self.app.without_discovered_handlers();
        self
    }

    /// Registers a handler that `#[on_event]` made, by the name of its function:
    /// `.handler::<greet>()`.
    pub fn handler<H: HandlerDefinition>(mut self) -> Self {
        self.app = self.app.handler::<H>();
        self
    }

    /// Registers a handler that was made without a macro, or a [`Relay`](crate::relay::Relay).
    pub fn register(mut self, handler: impl Into<Handler>) -> Self {
        self.app = self.app.register(handler);
        self
    }

    /// Registers the handlers of a [`Module`], with its states, layers and options.
    pub fn module(mut self, module: Module) -> Self {
        self.app = self.app.module(module);
        self
    }

    /// Runs a [`Layer`] around every handler; see [`AppBuilder::layer`].
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.app = self.app.layer(layer);
        self
    }

    /// Has a tracing system follow the events; see [`AppBuilder::tracer`].
    pub fn tracer<T: Tracer + Layer + Clone>(mut self, tracer: T) -> Self {
        self.app = self.app.tracer(tracer);
        self
    }

    /// Chooses the queues of events by the names of their types; see [`AppBuilder::event_queue`].
    pub fn event_queue<Q: IntoQueueName>(
        mut self,
        route: impl Fn(&str) -> Option<Q> + Send + Sync + 'static,
    ) -> Self {
        self.app = self.app.event_queue(route);
        self
    }

    /// Sets the application's queue; see [`AppBuilder::queue`].
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.app = self.app.queue(queue);
        self
    }

    /// Names the application. The name is the `source` of the events that it publishes, and the owner
    /// of its subscriptions. It is a word of letters, digits, `-`, `.` and `_`, or a URI. The
    /// environment's `EZQ_APP` sets it as well. Defaults to the program's name.
    pub fn app(mut self, name: impl Into<String>) -> Self {
        self.app = self.app.app(name);
        self
    }

    /// Declares that a type of event belongs to this application; see [`AppBuilder::owns`].
    pub fn owns<E: Event>(mut self) -> Self {
        self.app = self.app.owns::<E>();
        self
    }

    /// Declares that this application publishes a type of event that belongs to another one; see
    /// [`AppBuilder::publishes`].
    pub fn publishes<E: Event>(mut self) -> Self {
        self.app = self.app.publishes::<E>();
        self
    }

    /// Adds a codec, which is chosen by its name; see [`AppBuilder::codec`].
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.app = self.app.codec(codec);
        self
    }

    /// Writes the events of a queue with a codec; see [`AppBuilder::queue_codec`].
    pub fn queue_codec(mut self, queue: impl IntoQueueName, codec: impl Into<String>) -> Self {
        self.app = self.app.queue_codec(queue, codec);
        self
    }

    /// Writes the events of a type with a codec; see [`AppBuilder::event_codec`].
    pub fn event_codec(mut self, event_type: impl Into<String>, codec: impl Into<String>) -> Self {
        self.app = self.app.event_codec(event_type, codec);
        self
    }

    /// Calls a function with each notice of this application; see [`AppBuilder::hook`].
    pub fn hook(mut self, hook: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.app = self.app.hook(hook);
        self
    }

    /// Adds another engine under a name, for queues that [`queue_engine`](Self::queue_engine) assigns to it.
    pub fn named_engine(mut self, name: &str, engine: impl Engine) -> Self {
        self.app = self.app.named_engine(name, engine);
        self
    }

    /// Assigns a queue to a named engine.
    pub fn queue_engine(mut self, queue: impl IntoQueueName, engine: &str) -> Self {
        self.app = self.app.queue_engine(queue, engine);
        self
    }

    /// Sets what happens to the events of a queue once they are handled. They are deleted, moved to
    /// PGMQ's archive `pgmq.a_<queue>`, or deleted with a line in the trail `ezq.trail`. Defaults to
    /// [`Retention::Delete`].
    pub fn retention(mut self, queue: impl IntoQueueName, retention: Retention) -> Self {
        self.app = self.app.retention(queue, retention);
        self
    }

    /// How many partitions a queue gets when it is created; see [`PgmqConfig::partitions`].
    ///
    /// ```no_run
    /// use ezq::prelude::*;
    ///
    /// # async fn example() -> ezq::Result<()> {
    /// let ezq = Ezq::builder().partitions("orders", 8).connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn partitions(self, queue: impl IntoQueueName, partitions: u32) -> Self {
        let queue = queue.into_queue_name();
        self.configure_pgmq(move |pgmq| pgmq.partitions_of(queue, partitions))
    }

    /// Publishes an event at the times of a schedule, once for each tick, however many processes of the
    /// application run; see [`AppBuilder::schedule`].
    pub fn schedule<E: Event>(mut self, name: &str, schedule: Schedule, event: &E) -> Self {
        self.app = self.app.schedule(name, schedule, event);
        self
    }

    /// Connects, and checks options, handlers, state, events, the database and PGMQ.
    ///
    /// # Errors
    /// As [`AppBuilder::build`] and [`PgmqEngine::connect`]. [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if no database
    /// is configured.
    pub async fn connect(self) -> Result<Ezq> {
        // Outside of a runtime the database's driver would panic.
        ezq_core::private::check_runtime()?;
        // Before connecting: a wrong option is named even where no database answers.
        let config = self.app.config()?;

        let database = match self.database {
            Database::Pool(pool) => PgmqConfig::pool(pool),
            Database::Url(url) => PgmqConfig::url(&url)?,
            Database::Options(options) => PgmqConfig::options(*options),
            Database::Environment => PgmqConfig::from_env().await?,
        };
        let database = database
            .connect_timeout(config.connect_timeout)
            .manage_schema(config.manage_schema)
            .vacuum(config.vacuum);
        let changes = self.changes.0.into_iter();
        let engine = changes.fold(database, |database, change| change(database));
        let engine = PgmqEngine::connect(engine).await?;

        // A pool that the program gave as state is kept.
        let app = self
            .app
            .default_state(engine.pool().clone())
            .build(engine.clone())?;
        app.announce().await?;
        Ok(Ezq { app, engine })
    }
}
