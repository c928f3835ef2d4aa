//! An application on PGMQ: which database, and what needs its connections.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use ezq_core::private::HandlerDefinition;
use ezq_core::{
    App, AppBuilder, Broadcast, Broadcasted, Codec, Config, Engine, Error, ErrorKind, Event,
    Handler, Notice, Prepared, Publish, Published, QueueName, Result, Retention, Schedule,
};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{PgConnection, PgPool};

/// An application whose events are kept by PGMQ; everything of [`App`], and what Postgres adds.
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
    /// Connects with the options of the environment: to `EZQ_DATABASE_URL`, else `DATABASE_URL`,
    /// else, with the feature `embedded`, to a development Postgres that this process starts; see
    /// [`PgmqConfig::from_env`].
    ///
    /// # Errors
    /// As [`EzqBuilder::connect`].
    pub async fn connect() -> Result<Self> {
        Self::builder().connect().await
    }

    /// Begins an application with options of its own.
    pub fn builder() -> EzqBuilder {
        EzqBuilder::default()
    }

    /// The pool that publishing uses: the application's own, if it gave one.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.engine.pool()
    }

    /// The PGMQ engine.
    #[must_use]
    pub fn pgmq(&self) -> &PgmqEngine {
        &self.engine
    }

    /// Publishes an event inside the caller's transaction: nobody sees it unless that commits, and
    /// a roll-back leaves nothing.
    ///
    /// Consumers are woken a few milliseconds after the commit. Hand what this returns to
    /// [`confirm`](App::confirm) after the commit to wake them at once, and to tell hooks, which learn
    /// of it in no other way.
    ///
    /// For a queue, a delay, a key or a dedupe key, hand it a prepared event:
    /// [`publish_prepared_in`](Self::publish_prepared_in).
    ///
    /// ```no_run
    /// # use ezq::prelude::*;
    /// # #[derive(ezq::Event, serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # async fn example(ezq: Ezq) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = ezq.pool().begin().await?;
    /// ezq::sqlx::query("update orders set paid = true where id = 7").execute(&mut *tx).await?;
    /// ezq.publish_in(&mut tx, &Paid { order: 7 }).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Publisher::publish`](ezq_core::Publisher::publish). After an error of the database the
    /// transaction can only be rolled back.
    pub async fn publish_in<E: Event>(
        &self,
        connection: &mut PgConnection,
        event: &E,
    ) -> Result<Published> {
        let publish = self.app.publish(event);
        self.publish_prepared_in(connection, publish).await
    }

    /// As [`publish_in`](Self::publish_in), for an event with options:
    /// `ezq.publish_prepared_in(&mut tx, ezq.publish(&event).queue("mail"))`.
    ///
    /// # Errors
    /// As [`publish_in`](Self::publish_in).
    pub async fn publish_prepared_in(
        &self,
        connection: &mut PgConnection,
        publish: Publish,
    ) -> Result<Published> {
        let prepared: Prepared = publish.prepare()?;
        let queue = &prepared.outgoing.queue;
        if self.app.is_routed(queue) {
            let message = format!(
                "the queue `{queue}` is routed to another engine: no transaction can store its events"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.engine.ensure_queue_in(connection, queue).await?;
        let messages = vec![prepared.outgoing.clone()];
        let mut outcomes = self.engine.publish_in(connection, messages).await?;
        let lost = || Error::new(ErrorKind::Engine, "the database gave no id");
        prepared.published(outcomes.pop().ok_or_else(lost)?)
    }

    /// Broadcasts an event inside the caller's transaction: every subscribed queue gets its copy when
    /// that commits, and none if it rolls back.
    ///
    /// For a delay, a key or a dedupe key, hand it a prepared event:
    /// [`broadcast_prepared_in`](Self::broadcast_prepared_in).
    ///
    /// ```no_run
    /// # use ezq::prelude::*;
    /// # #[derive(ezq::Event, serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # async fn example(ezq: Ezq) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = ezq.pool().begin().await?;
    /// ezq::sqlx::query("update orders set paid = true where id = 7").execute(&mut *tx).await?;
    /// ezq.broadcast_in(&mut tx, &Paid { order: 7 }).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Publisher::broadcast`](ezq_core::Publisher::broadcast). After an error of the database the
    /// transaction can only be rolled back.
    pub async fn broadcast_in<E: Event>(
        &self,
        connection: &mut PgConnection,
        event: &E,
    ) -> Result<Broadcasted> {
        self.broadcast_prepared_in(connection, self.app.broadcast(event))
            .await
    }

    /// As [`broadcast_in`](Self::broadcast_in), for an event with options:
    /// `ezq.broadcast_prepared_in(&mut tx, ezq.broadcast(&event).key("7"))`.
    ///
    /// # Errors
    /// As [`broadcast_in`](Self::broadcast_in).
    pub async fn broadcast_prepared_in(
        &self,
        connection: &mut PgConnection,
        broadcast: Broadcast,
    ) -> Result<Broadcasted> {
        let prepared = broadcast.prepare()?;
        let copies = self
            .engine
            .broadcast_in(connection, prepared.message.clone())
            .await?;
        prepared.broadcasted(copies)
    }

    /// Takes the lock of an ordering key until the caller's transaction ends.
    ///
    /// Events of one key are handled in the order of their ids, which they get when they are
    /// published, not when their transactions commit. Two transactions that publish events of one key
    /// at once may commit in the other order, and the later event may be handled first. Where that
    /// matters, both take the lock before they publish: the second waits until the first has ended.
    ///
    /// ```no_run
    /// # use ezq::prelude::*;
    /// # #[derive(ezq::Event, serde::Serialize, serde::Deserialize)]
    /// # #[event(key = "account")] struct Moved { account: i64 }
    /// # async fn example(ezq: Ezq, queue: ezq::QueueName) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = ezq.pool().begin().await?;
    /// ezq.lock_key(&mut tx, &queue, "7").await?;
    /// ezq.publish_in(&mut tx, &Moved { account: 7 }).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The database's errors; after one the transaction can only be rolled back.
    pub async fn lock_key(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
        key: &str,
    ) -> Result<()> {
        self.engine.lock_key(connection, queue, key).await
    }
}

impl Deref for Ezq {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

/// Builds an [`Ezq`].
#[derive(Debug, Default)]
#[must_use]
pub struct EzqBuilder {
    app: AppBuilder,
    database: Database,
}

#[derive(Default)]
enum Database {
    #[default]
    Environment,
    Url(String),
    Pool(PgPool),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::Url(_) => "Url(..)",
            Self::Pool(_) => "Pool(..)",
        })
    }
}

impl EzqBuilder {
    /// The database, in place of the environment's.
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database = Database::Url(url.into());
        self
    }

    /// The application's own pool, for publishing and transactions. Claiming, renewing, settling
    /// and listening open connections of their own to the same database, with the pool's options: a
    /// pool of one works. Defaults to a pool of at most 10 connections.
    pub fn pool(mut self, pool: PgPool) -> Self {
        self.database = Database::Pool(pool);
        self
    }

    /// Whether PGMQ, queues and ezq's own tables are created where they are absent. With `false` no
    /// statement that changes the schema is ever sent. Defaults to true.
    pub fn manage_schema(self, manage: bool) -> Self {
        self.configure(|config| config.manage_schema = manage)
    }

    /// How long connecting may take. Defaults to 5 s.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.configure(|config| config.connect_timeout = timeout)
    }

    /// Changes options, over what the environment says; see [`Config`].
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        self.app = self.app.configure(change);
        self
    }

    /// Gives state to handlers that ask for `State<T>`; one per type. `State<PgPool>` is the
    /// [pool](Ezq::pool) unless it is given here.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.app = self.app.state(state);
        self
    }

    /// Leaves out the handlers found at link time.
    pub fn without_discovered_handlers(mut self) -> Self {
        self.app = self.app.without_discovered_handlers();
        self
    }

    /// Registers a handler that `#[on_event]` made, by its function's name: `.handler::<greet>()`.
    pub fn handler<H: HandlerDefinition>(mut self) -> Self {
        self.app = self.app.handler::<H>();
        self
    }

    /// Registers a handler.
    pub fn register(mut self, handler: Handler) -> Self {
        self.app = self.app.register(handler);
        self
    }

    /// Routes events by a function of their type's name; see [`AppBuilder::route_events`].
    pub fn route_events(
        mut self,
        route: impl Fn(&str) -> Option<QueueName> + Send + Sync + 'static,
    ) -> Self {
        self.app = self.app.route_events(route);
        self
    }

    /// Names the application: the `source` of what it publishes, and whose its subscriptions are.
    /// `EZQ_APP`. Defaults to the program's name.
    pub fn app(mut self, name: impl Into<String>) -> Self {
        self.app = self.app.app(name);
        self
    }

    /// Says that a type of event is this application's own; see [`AppBuilder::owns`].
    pub fn owns<E: Event>(mut self) -> Self {
        self.app = self.app.owns::<E>();
        self
    }

    /// Says that this application publishes another's type of event; see
    /// [`AppBuilder::publishes`].
    pub fn publishes<E: Event>(mut self) -> Self {
        self.app = self.app.publishes::<E>();
        self
    }

    /// Adds a codec, to be chosen by its name; see [`AppBuilder::codec`].
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.app = self.app.codec(codec);
        self
    }

    /// Writes the events of a queue with a codec; see [`AppBuilder::queue_codec`].
    pub fn queue_codec(
        mut self,
        queue: impl TryInto<QueueName, Error = Error>,
        codec: impl Into<String>,
    ) -> Self {
        self.app = self.app.queue_codec(queue, codec);
        self
    }

    /// Writes the events of a type with a codec; see [`AppBuilder::event_codec`].
    pub fn event_codec(mut self, event_type: impl Into<String>, codec: impl Into<String>) -> Self {
        self.app = self.app.event_codec(event_type, codec);
        self
    }

    /// Calls a function with every notice of this application; see [`AppBuilder::hook`].
    pub fn hook(mut self, hook: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.app = self.app.hook(hook);
        self
    }

    /// Adds another engine under a name.
    pub fn named_engine(mut self, name: &str, engine: impl Engine) -> Self {
        self.app = self.app.named_engine(name, engine);
        self
    }

    /// Keeps a queue on a named engine.
    pub fn route(mut self, queue: &QueueName, engine: &str) -> Self {
        self.app = self.app.route(queue, engine);
        self
    }

    /// What becomes of a queue's events once they are handled: deleted, moved to PGMQ's archive
    /// `pgmq.a_<queue>`, or deleted with a line in the trail `ezq.trail`. Defaults to
    /// [`Retention::Delete`].
    pub fn retention(
        mut self,
        queue: impl TryInto<QueueName, Error = Error>,
        retention: Retention,
    ) -> Self {
        self.app = self.app.retention(queue, retention);
        self
    }

    /// Publishes an event at the times of a schedule, once for each tick however many processes of
    /// the application run; see [`AppBuilder::schedule`].
    pub fn schedule<E: Event>(mut self, name: &str, schedule: Schedule, event: &E) -> Self {
        self.app = self.app.schedule(name, schedule, event);
        self
    }

    /// Connects and checks everything: options, handlers, state, events, database and PGMQ.
    ///
    /// # Errors
    /// As [`AppBuilder::build`] and [`PgmqEngine::connect`]; [`ErrorKind::Configuration`] when
    /// there is no database.
    pub async fn connect(self) -> Result<Ezq> {
        ezq_core::private::check_runtime()?;
        let config = self.app.config()?;
        let (timeout, manage) = (config.connect_timeout, config.manage_schema);
        let database = match self.database {
            Database::Pool(pool) => PgmqConfig::pool(pool),
            Database::Url(url) => PgmqConfig::url(&url)?,
            Database::Environment => PgmqConfig::from_env().await?,
        };
        let config = database.connect_timeout(timeout).manage_schema(manage);
        let engine = PgmqEngine::connect(config).await?;
        let app = self.app.default_state(engine.pool().clone());
        let app = app.build(engine.clone())?;
        app.announce().await?;
        Ok(Ezq { app, engine })
    }
}
