//! Where options come from, and what wrong ones and unreachable databases say.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ezq::codec::WireFormat;
use ezq::config::UnknownTypes;
use ezq::consumer::StopReason;
use ezq::error::error_chain;
use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::prelude::*;
use ezq::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use ezq::sqlx::{self, Connection as _, PgConnection};
use ezq::{Config, Error, ErrorKind, EzqBuilder, Handler};

use crate::kit::{Numbered, Work, app, drain, held, numbered, queue, soon, until};

fn from(vars: &[(&str, &str)]) -> ezq::Result<Config> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Config::from_vars(vars.iter().map(owned))
}

#[test]
fn every_option_of_the_environment_takes_effect() {
    let secs = Duration::from_secs;
    let mut expected = Config::default();
    expected.app = "shop".into();
    expected.queue = ezq::QueueName::new("orders").unwrap();

    let orders = (
        ezq::event::Pattern::new("order.*").unwrap(),
        ezq::QueueName::new("o").unwrap(),
    );

    let rest = (
        ezq::event::Pattern::new("#").unwrap(),
        ezq::QueueName::new("rest").unwrap(),
    );
    expected.event_routes = vec![orders, rest];
    expected.concurrency = 3;
    expected.lease = secs(2);

    expected.handler_timeout = None;
    expected.retry.max_attempts = 9;
    expected.unknown_types = UnknownTypes::Skip;
    expected.max_deliveries = 7;
    expected.poll_min = Some(Duration::from_millis(250));
    expected.poll_max = Some(secs(60));
    expected.settle_batch = 11;

    expected.settle_max_age = Duration::from_millis(1);
    expected.message_limit = 4096;
    expected.wire = WireFormat::Flat;
    expected.grace = Some(secs(3600));
    expected.dedupe_window = secs(7200);
    expected.connect_timeout = secs(1);
    expected.subscribe = true;
    expected.app_version = Some("1.4.0 (a1b2c3)".into());
    expected.presence = false;
    expected.sample_queues = Some(Duration::from_secs(15));
    expected.manage_schema = false;
    expected.vacuum = false;

    let given = from(&[
        ("EZQ_APP", "shop"),
        ("EZQ_QUEUE", "orders"),
        ("EZQ_ROUTES", "order.*=o, #=rest,"),
        ("EZQ_CONCURRENCY", "3"),
        ("EZQ_LEASE", "2s"),
        ("EZQ_HANDLER_TIMEOUT", "none"),
        ("EZQ_MAX_ATTEMPTS", "9"),
        ("EZQ_UNKNOWN_TYPES", "skip"),
        ("EZQ_MAX_DELIVERIES", "7"),
        ("EZQ_POLL_MIN", "250ms"),
        ("EZQ_POLL_MAX", "1m"),
        ("EZQ_SETTLE_BATCH", "11"),
        ("EZQ_SETTLE_MAX_AGE", "1ms"),
        ("EZQ_MESSAGE_LIMIT", "4096"),
        ("EZQ_WIRE", "flat"),
        ("EZQ_GRACE", "1h"),
        ("EZQ_DEDUPE_WINDOW", "2h"),
        ("EZQ_CONNECT_TIMEOUT", "1s"),
        ("EZQ_SUBSCRIBE", "true"),
        ("EZQ_APP_VERSION", "1.4.0 (a1b2c3)"),
        ("EZQ_PRESENCE", "false"),
        ("EZQ_SAMPLE_QUEUES", "15s"),
        ("EZQ_MANAGE_SCHEMA", "false"),
        ("EZQ_VACUUM", "false"),
        ("EZQ_DATABASE_URL", "postgres://app:hunter2@db/app"),
        ("DATABASE_URL", "postgres://app:hunter2@db/app"),
        ("PATH", "/bin"),
    ])
    .unwrap();

    assert_eq!(given, expected);
    assert!(!format!("{given:?}").contains("hunter2"));
    assert_eq!(from(&[]).unwrap(), Config::default());
}

#[test]
fn what_is_no_option_stops_no_program() {
    let links = [
        ("EZQ_WORKER_SERVICE_HOST", "10.0.0.1"),
        ("EZQ_WORKER_PORT", "tcp://10.0.0.1:5432"),
        ("EZQ_WORKER_PORT_5432_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(from(&links).unwrap(), Config::default());
    for name in ["EZQ_LEASES", "EZQ_", "EZQ_lease"] {
        assert_eq!(from(&[(name, "2s")]).unwrap(), Config::default(), "{name}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_name_and_what_to_write() {
    let wrong = [
        ("EZQ_QUEUE", "Orders!"),
        ("EZQ_ROUTES", "order.*"),
        ("EZQ_ROUTES", "order*=o"),
        ("EZQ_ROUTES", "order.*=o o"),
        ("EZQ_CONCURRENCY", "many"),
        ("EZQ_CONCURRENCY", "-1"),
        ("EZQ_LEASE", "10"),
        ("EZQ_LEASE", "ten seconds"),
        ("EZQ_LEASE", "1.5s"),
        ("EZQ_LEASE", ""),
        ("EZQ_LEASE", "99999999999999999999s"),
        ("EZQ_HANDLER_TIMEOUT", "never"),
        ("EZQ_UNKNOWN_TYPES", "ignore"),
        ("EZQ_WIRE", "xml"),
        ("EZQ_MANAGE_SCHEMA", "maybe"),
        ("EZQ_SUBSCRIBE", "yes"),
        ("EZQ_PRESENCE", "never"),
        ("EZQ_STDERR", "off"),
        ("EZQ_EMBEDDED", "yes"),
    ];
    for (name, value) in wrong {
        let error = from(&[(name, value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name}={value}");
        assert!(
            error.to_string().starts_with(&format!("{name}={value}: ")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_option_out_of_range_fails_when_the_application_is_built() {
    let changes: [fn(&mut Config); 12] = [
        |config| config.sample_queues = Some(Duration::from_millis(999)),
        |config| config.concurrency = 0,
        |config| config.lease = Duration::from_millis(999),
        |config| config.settle_batch = 0,
        |config| config.message_limit = 0,
        |config| config.max_deliveries = 0,
        |config| config.dedupe_window = Duration::ZERO,
        |config| config.retry.max_attempts = 0,
        |config| config.app = String::new(),
        |config| config.app = "two words".into(),
        |config| {
            config.poll_min = Some(Duration::from_secs(2));
            config.poll_max = Some(Duration::from_secs(1));
        },
        |config| {
            let options = ezq::handler::HandlerOptions::default().max_attempts(0);
            config.handlers.insert("work".into(), options);
        },
    ];

    for (index, change) in changes.into_iter().enumerate() {
        let builder = app(&queue()).register(Work::quick().0).configure(change);
        let error = builder.connect().await.expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::Configuration, "change {index}");
    }

    let ezq = app(&queue()).connect().await.unwrap();
    for consumer in [
        ezq.consumer().concurrency(0),
        ezq.consumer().lease(Duration::ZERO),
    ] {
        let error = soon(consumer.run()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

/// Set in the process that the test below starts.
const CHILD: &str = "IT_CONFIG_QUEUE";

#[tokio::test]
async fn code_wins_over_the_environment_and_that_over_the_defaults() {
    let queue = queue();
    let url = EmbeddedPostgres::shared().await.unwrap().url();
    let child = |extra: Option<(&'static str, &'static str)>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "config::in_a_process_of_its_own", "--nocapture"])
            .env(CHILD, queue.as_str())
            .env("EZQ_QUEUE", queue.as_str())
            .env("EZQ_LEASE", "3s")
            .env("EZQ_CONCURRENCY", "1")
            .env("EZQ_DATABASE_URL", &url)
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
            .envs(extra);
        command.output().unwrap()
    };

    let output = child(None);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );

    let ezq = app(&queue).connect().await.unwrap();
    assert_eq!(
        held(&ezq, &queue).await,
        [1, 0, 0, 0],
        "it published to this database and queue"
    );

    let output = child(Some(("EZQ_MAX_DELIVERIES", "many")));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("EZQ_MAX_DELIVERIES=many"),
        "{output:?}"
    );
}

#[tokio::test]
async fn in_a_process_of_its_own() {
    // Run by the test above, in an environment of its own; elsewhere there is nothing to see.
    let Ok(queue) = std::env::var(CHILD) else {
        return;
    };
    let builder = Ezq::builder().without_discovered_handlers();
    let ezq = builder
        .configure(|config| config.concurrency = 7)
        .connect()
        .await
        .unwrap();

    let config = ezq.config();
    assert_eq!(config.queue.as_str(), queue);
    assert_eq!(config.lease, Duration::from_secs(3));
    assert_eq!(config.concurrency, 7);
    assert_eq!(config.max_deliveries, Config::default().max_deliveries);
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
}

async fn embedded() -> PgConnectOptions {
    EmbeddedPostgres::shared().await.unwrap().connect_options()
}

#[tokio::test]
async fn a_pool_of_one_connection_publishes_and_consumes() {
    let queue = queue();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(embedded().await)
        .await;
    let pool = pool.unwrap();
    let (handler, work) = Work::quick();

    let chain = Handler::on(
        "chain",
        |event: Numbered, publisher: Publisher| async move {
            if event.n <= 20 {
                publisher.publish(&Numbered { n: event.n + 100 }).await?;
            }
            Ok::<_, HandlerError>((event.n <= 20).then_some(Numbered { n: event.n + 200 }))
        },
    );

    let builder = app(&queue)
        .pool(pool.clone())
        .register(handler)
        .register(chain);
    let ezq = builder.connect().await.unwrap();
    assert_eq!(ezq.pool().options().get_max_connections(), 1);
    ezq.publish_all(&numbered(1..=20)).await.unwrap();

    // With the pool's only connection in the caller's hands, consuming goes on.
    let consumer = ezq.consumer().concurrency(8).spawn();
    until(async || consumer.counts().handled == 60).await;

    let mut tx = pool.begin().await.unwrap();
    let published = ezq
        .publish(&Numbered { n: 500 })
        .within(&mut tx)
        .await
        .unwrap();

    let other = app(&queue).connect().await.unwrap();
    other.publish(&Numbered { n: 400 }).await.unwrap();
    until(async || consumer.counts().handled == 61).await;
    tx.commit().await.unwrap();
    until(async || consumer.counts().handled == 62).await;
    assert_eq!(published.queue, queue);

    consumer.stop();
    assert_eq!(soon(consumer).await.unwrap().reason, StopReason::Handle);

    let expected: Vec<i64> = (1..=20)
        .chain(101..=120)
        .chain(201..=220)
        .chain([400, 500])
        .collect();
    assert_eq!(work.handled.sorted(), expected);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn options_of_the_engine_reach_it_through_the_builder() {
    let queue = queue();
    let server = embedded().await;
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let from = server.clone();

    let builder = app(&queue)
        .database_options(server)
        .manage_schema(false)
        .configure_pgmq(|pgmq| pgmq.manage_schema(true).application_name("named"))
        .configure_pgmq(|pgmq| {
            pgmq.statement_timeout(Duration::from_secs(1))
                .max_connections(3)
        })
        .configure_pgmq(move |pgmq| {
            pgmq.options_from(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                from.clone()
            })
        });
    let ezq = builder.connect().await.unwrap();
    assert_eq!(ezq.pool().options().get_max_connections(), 3);

    // The queue is created: what the function says counts over what the builder said before.
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert!(asked.load(Ordering::Relaxed) > 0, "nobody asked");
    let name: String = sqlx::query_scalar("SHOW application_name")
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert_eq!(name, "named");

    // Without the option this would take half a minute.
    let mut own = PgConnection::connect_with(&embedded().await).await.unwrap();
    let mut tx = own.begin().await.unwrap();
    let lock = format!("LOCK TABLE pgmq.q_{queue}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock))
        .execute(&mut *tx)
        .await
        .unwrap();
    let began = Instant::now();
    ezq.publish(&Numbered { n: 2 }).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15), "{began:?}");
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn a_wrong_option_of_the_engine_is_refused_when_the_builder_connects() {
    let wrong = [
        app(&queue()).configure_pgmq(|pgmq| pgmq.statement_timeout(Duration::ZERO)),
        app(&queue()).configure_pgmq(|pgmq| pgmq.max_connections(0)),
    ];
    for builder in wrong {
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

#[tokio::test]
async fn nothing_is_created_where_the_schema_is_not_managed() {
    let queue = queue();
    let managed = app(&queue).connect().await.unwrap();
    let ezq = app(&queue).manage_schema(false).connect().await.unwrap();
    let error = ezq.publish(&Numbered { n: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    let error = soon(ezq.consumer().until_idle().run()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);

    let exists: bool = sqlx::query_scalar("SELECT to_regclass('pgmq.q_' || $1) IS NOT NULL")
        .bind(queue.as_str())
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert!(!exists);

    managed.publish(&Numbered { n: 1 }).await.unwrap();
    let builder = app(&queue).manage_schema(false).register(Work::quick().0);
    assert_eq!(
        drain(&builder.connect().await.unwrap())
            .await
            .counts
            .handled,
        1
    );
}

/// What connecting fails with, in time and without a password.
async fn refused(builder: EzqBuilder) -> Error {
    let began = Instant::now();
    let builder = builder
        .without_discovered_handlers()
        .connect_timeout(Duration::from_secs(2));
    let debug = format!("{builder:?}");
    let error = builder.connect().await.unwrap_err();

    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );

    let all = format!("{error} {error:?} {} {debug}", error_chain(&error));
    assert!(!all.contains("hunter2"), "{all}");
    error
}

fn at(url: &str) -> EzqBuilder {
    Ezq::builder().database_url(url)
}

#[tokio::test]
async fn a_server_that_is_not_there_or_says_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/app");
    let error = refused(at(&url)).await;
    assert_eq!(
        error.kind(),
        ErrorKind::Connection,
        "it accepts and says nothing"
    );

    drop(listener);
    let error = refused(at(&url)).await;
    assert_eq!(error.kind(), ErrorKind::Connection, "nothing listens");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    let error = refused(at("postgres://app:hunter2@no-such-host.invalid/app")).await;
    assert_eq!(error.kind(), ErrorKind::Connection);
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let mut connecting = Box::pin(at("postgres://app@localhost/app").connect());
    let waker = std::task::Waker::noop();
    let polled = connecting
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker));
    let std::task::Poll::Ready(Err(error)) = polled else {
        panic!("it waits")
    };
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    assert!(error.to_string().contains("#[tokio::main]"), "{error}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_grants_them() {
    let server = EmbeddedPostgres::shared().await.unwrap();
    // Makes sure that PGMQ stands.
    app(&queue()).connect().await.unwrap();

    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql("CREATE ROLE rightless LOGIN")
        .execute(&mut own)
        .await
        .unwrap();

    let refusal = async || {
        let ezq = at(&server.url().replace("postgres@", "rightless@"));
        match ezq.without_discovered_handlers().connect().await {
            Ok(ezq) => ezq.publish(&Numbered { n: 1 }).await.unwrap_err(),
            Err(error) => error,
        }
    };

    for grant in ["SELECT", "GRANT USAGE ON SCHEMA pgmq TO rightless"] {
        sqlx::raw_sql(grant).execute(&mut own).await.unwrap();
        let error = refusal().await;
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        assert!(error.to_string().contains("setup_sql"), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let server = EmbeddedPostgres::shared().await.unwrap();
    let url = server
        .database_url("no_such_database")
        .replace("postgres@", "postgres:hunter2@");
    let error = refused(at(&url)).await;
    assert_eq!(error.kind(), ErrorKind::DatabaseMissing);
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

#[tokio::test]
async fn a_url_that_is_none() {
    for url in [
        "hunter2",
        "",
        "mysql://app:hunter2@db/app",
        "postgres://app:hunter2@db:port/app",
    ] {
        assert_eq!(
            refused(at(url)).await.kind(),
            ErrorKind::Configuration,
            "{url}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password() {
    // A server of its own: this one asks for passwords.
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();

    let settings = [
        "CREATE ROLE app LOGIN PASSWORD 'right'",
        "DO $$ BEGIN EXECUTE format('COPY (SELECT %L) TO %L', 'local all all scram-sha-256', \
         current_setting('hba_file')); END $$",
        "SELECT pg_reload_conf()",
    ];

    for statement in settings {
        sqlx::raw_sql(statement)
            .execute(&mut connection)
            .await
            .unwrap();
    }

    // The reload takes a moment.
    until(async || {
        let options = server.connect_options().username("app").password("wrong");
        PgConnection::connect_with(&options).await.is_err()
    })
    .await;

    let url = server.url().replace("postgres@", "app:hunter2@");
    let error = refused(at(&url)).await;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("`app`"), "{error}");
}
