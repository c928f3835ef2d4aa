//! The development Postgres that these tests share, a queue for each, and looking into its tables.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::prelude::*;
use ezq::sqlx::postgres::PgConnection;
use ezq::sqlx::{self, AssertSqlSafe, Connection};
use ezq::{Handler, QueueName};

/// Past it, what is waited for counts as never coming.
pub(crate) const CEILING: Duration = Duration::from_secs(60);

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub(crate) async fn server() -> &'static EmbeddedPostgres {
    EmbeddedPostgres::shared().await.unwrap()
}

/// A name that no other test uses.
pub(crate) fn unique(prefix: &str) -> QueueName {
    QueueName::new(&format!(
        "{prefix}_{}",
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ))
    .unwrap()
}

/// An application with these handlers alone.
pub(crate) async fn app(url: &str, handlers: impl IntoIterator<Item = Handler>) -> Ezq {
    let mut builder = Ezq::builder()
        .database_url(url)
        .without_discovered_handlers();
    builder = builder.connect_timeout(Duration::from_secs(2));
    for handler in handlers {
        builder = builder.register(handler);
    }
    builder.connect().await.unwrap()
}

pub(crate) async fn connection(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
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

/// Waits until a question about tables is answered with yes.
pub(crate) async fn until(connection: &mut PgConnection, question: &str) {
    let began = Instant::now();
    while !scalar::<bool>(connection, question).await {
        assert!(began.elapsed() < CEILING, "still not so: {question}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that a queue and its dead letters hold, as text to compare.
pub(crate) async fn snapshot(connection: &mut PgConnection, queue: &QueueName) -> String {
    let rows = |table: String| {
        format!("coalesce((SELECT jsonb_agg(to_jsonb(q) ORDER BY msg_id) FROM {table} q), '[]')")
    };

    let sql = format!(
        "SELECT ({} || jsonb_build_array('dead:') || {})::text",
        rows(format!("pgmq.q_{queue}")),
        rows(format!("pgmq.q_{}", queue.dead_letters()))
    );
    scalar(connection, &sql).await
}
