//! What the tests share: one server, and a queue or a database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ezq_core::Error;
use ezq_core::engine::{
    Dedupe, Delivery, Engine, LeaseRequest, Outgoing, PublishOutcome, Settle, SettleOutcome,
};
use ezq_core::message::headers::Headers;
use ezq_core::message::{MessageId, Progress, QueueName, Reason, ReasonKind, Retention};
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

pub(crate) const TTL: Duration = Duration::from_secs(30);

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub(crate) async fn server() -> &'static EmbeddedPostgres {
    EmbeddedPostgres::shared().await.unwrap()
}

pub(crate) async fn engine() -> PgmqEngine {
    engine_at(&server().await.url()).await
}

/// An engine with these settings, and a queue.
pub(crate) async fn archiving(retention: Retention) -> (PgmqEngine, QueueName) {
    let queue = unique("q");
    (
        archiving_at(&server().await.url(), &queue, retention).await,
        queue,
    )
}

pub(crate) async fn archiving_at(url: &str, queue: &QueueName, retention: Retention) -> PgmqEngine {
    let config = PgmqConfig::url(url).unwrap().retention(queue, retention);
    // Sweeps only on request, unless a test says otherwise.
    let config = config.sweep_interval(Duration::from_secs(3600));
    let engine = PgmqEngine::connect(config).await.unwrap();
    engine.ensure_queue(queue).await.unwrap();
    engine
}

/// Leases all that is due and acknowledges it.
pub(crate) async fn acknowledge_all(engine: &PgmqEngine, queue: &QueueName) -> usize {
    let deliveries = lease(engine, queue).await;
    let count = deliveries.len();
    let settlements = deliveries
        .into_iter()
        .map(|delivery| (delivery.receipt, ack()))
        .collect();

    let outcomes = engine.settle(queue, settlements).await.unwrap();
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, SettleOutcome::Done)),
        "{outcomes:?}"
    );

    count
}

pub(crate) async fn archived(queue: &QueueName) -> i64 {
    scalar(
        &mut connection().await,
        &format!("SELECT count(*) FROM pgmq.a_{queue}"),
    )
    .await
}

pub(crate) async fn engine_at(url: &str) -> PgmqEngine {
    PgmqEngine::connect(PgmqConfig::url(url).unwrap())
        .await
        .unwrap()
}

/// An engine and a queue that no other test uses.
pub(crate) async fn engine_and_queue() -> (PgmqEngine, QueueName) {
    let engine = engine().await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue)
}

pub(crate) fn unique(prefix: &str) -> QueueName {
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    QueueName::new(&format!("{prefix}_{n}")).unwrap()
}

/// A connection of the test's own, as superuser.
pub(crate) async fn connection() -> PgConnection {
    PgConnection::connect(&server().await.url()).await.unwrap()
}

/// The URL of a database without PGMQ.
pub(crate) async fn fresh_database() -> String {
    let name = unique("db");
    run(&mut connection().await, &format!("CREATE DATABASE {name}")).await;
    server().await.database_url(name.as_str())
}

pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .unwrap();
}

pub(crate) async fn scalar<T>(connection: &mut PgConnection, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .unwrap()
}

pub(crate) fn message(queue: &QueueName, body: &str) -> Outgoing {
    let queue = queue.clone();
    let body = body.to_owned();
    let headers = Headers::new();
    Outgoing::new(queue, body, headers)
}

/// A message with a dedupe key for an hour. Its event's id is its body.
pub(crate) fn keyed(queue: &QueueName, body: &str, key: &str) -> Outgoing {
    let dedupe = Dedupe::new(key, Duration::from_secs(3600), body).unwrap();
    message(queue, body).dedupe(dedupe)
}

/// Publishes bodies and expects all to be stored.
pub(crate) async fn publish(
    engine: &PgmqEngine,
    queue: &QueueName,
    bodies: &[&str],
) -> Vec<MessageId> {
    let messages = bodies.iter().map(|body| message(queue, body)).collect();
    let outcomes = engine.publish(messages).await.unwrap();
    outcomes.into_iter().map(stored).collect()
}

/// The id of a message that is expected to be stored.
pub(crate) fn stored(outcome: PublishOutcome) -> MessageId {
    match outcome {
        PublishOutcome::Stored(id) => id,
        other => panic!("not stored: {other:?}"),
    }
}

pub(crate) async fn lease_for(
    engine: &PgmqEngine,
    queue: &QueueName,
    ttl: Duration,
) -> Vec<Delivery> {
    let request = LeaseRequest::new(queue.clone(), 100, ttl).keys(100);
    engine.lease(request).await.unwrap().deliveries
}

pub(crate) async fn lease(engine: &PgmqEngine, queue: &QueueName) -> Vec<Delivery> {
    lease_for(engine, queue, TTL).await
}

pub(crate) async fn lease_one(engine: &PgmqEngine, queue: &QueueName) -> Delivery {
    let mut deliveries = lease(engine, queue).await;
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    deliveries.remove(0)
}

/// Loses the newest message of a queue and sets its sequence back, as a fail-over to a lagging
/// replica does. Returns the message's body.
pub(crate) async fn lose_newest(connection: &mut PgConnection, queue: &str) -> Option<String> {
    let table = format!("pgmq.\"q_{queue}\"");
    let sql = format!(
        "WITH lost AS (
           DELETE FROM {table} WHERE msg_id = (SELECT max(msg_id) FROM {table})
           RETURNING msg_id, message::text AS body)
         SELECT body FROM lost, setval(pg_get_serial_sequence('{table}', 'msg_id'), msg_id, false)"
    );

    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_optional(connection)
        .await
        .unwrap()
}

/// Ends every lease of a queue, without waiting.
pub(crate) async fn expire(queue: &QueueName) {
    let sql = format!("UPDATE pgmq.q_{queue} SET vt = clock_timestamp() - interval '1 ms'");
    run(&mut connection().await, &sql).await;
}

pub(crate) fn ack() -> Settle {
    Settle::Ack {
        outgoing: Vec::new(),
    }
}

pub(crate) fn retry(after: Duration) -> Settle {
    Settle::Retry {
        after,
        progress: Progress::default(),
        outgoing: Vec::new(),
    }
}

pub(crate) fn dead() -> Settle {
    Settle::DeadLetter {
        reason: Reason::new(ReasonKind::Fatal, "no\0 good".to_owned(), 1),
        progress: Progress::default(),
        outgoing: Vec::new(),
    }
}

/// As a consumer does: again, as long as the error is transient.
pub(crate) async fn until_it_works<T, F: Future<Output = Result<T, Error>>>(
    work: impl Fn() -> F,
) -> T {
    for _ in 0..100 {
        match work().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    panic!("it never worked again");
}
