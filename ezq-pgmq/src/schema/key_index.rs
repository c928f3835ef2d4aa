//! The indexes of a queue with ordering keys. They are created when a message with a key is first
//! met: at once on a small queue, and concurrently by a task on a large one.

use std::fmt::Write as _;

use ezq_core::Result;
use ezq_core::message::{IntoQueueName, QueueName};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::connection::connector::Connector;
use crate::schema::lock::LOCK_KEY;
use crate::{error, sql};

/// While this waits for the table's lock, publishers wait behind it. So it gives up soon, and is
/// tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

/// A queue up to this size is indexed by statements that block writes to it.
const SMALL: i64 = 8 * 1024 * 1024;
/// The key of the lock under which one process builds indexes concurrently.
const BUILD_KEY: i64 = 0x65_7a_71_04;

/// Whether the indexes of the queue `$1` exist and are valid.
pub(crate) const PROBE: &str = "
    (SELECT count(*) = 3 FROM pg_catalog.pg_index i
     JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = to_regclass('pgmq.' || quote_ident('q_' || $1)) AND i.indisvalid
       AND c.relname IN ('q_' || $1 || '_ezq_keys', 'q_' || $1 || '_ezq_held',
                         'q_' || $1 || '_ezq_plain'))";

/// The statements that create a queue's indexes: over its keys, over leased messages by key, and
/// over messages without a key, so that claiming those does not walk past the others.
fn statements(queue: &QueueName) -> [String; 3] {
    let table = sql::table(queue);
    let hash = "(pg_catalog.hashtextextended(headers ->> 'x-pgmq-group'::text, 0))";
    let until = crate::sql::keys::held_until("");
    let keyed = "headers ->> 'x-pgmq-group'::text IS NOT NULL";
    let plain = "headers ->> 'x-pgmq-group'::text IS NULL";
    let index = |what: &str| sql::identifier(&format!("q_{queue}_ezq_{what}"));
    let keys = index("keys");
    let held = index("held");
    let without = index("plain");

    [
        format!("create index if not exists {keys} on {table} ({hash}, msg_id) where {keyed}"),
        format!(
            "create index if not exists {held} on {table} ({hash}, ({until})) \
             where {keyed} and read_ct > 0"
        ),
        format!("create index if not exists {without} on {table} (vt) where {plain}"),
    ]
}

/// The statements with which an administrator prepares queues for events with ordering keys, where
/// the application may not change the schema.
///
/// `concurrently` may be added to each, so that a large queue is not blocked; ezq itself does that.
/// Without these indexes keys are kept as well, only slowly. The session that runs them keeps
/// `pg_catalog` as its search path.
///
/// ```
/// let sql = ezq_pgmq::ordering_sql(["orders"])?;
/// assert!(sql.contains("create index if not exists q_orders_ezq_keys on pgmq.q_orders"));
/// # Ok::<(), ezq_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidQueueName`](ezq_core::ErrorKind::InvalidQueueName) for the first text that is no
/// queue name.
pub fn ordering_sql(queues: impl IntoIterator<Item = impl IntoQueueName>) -> Result<String> {
    let mut sql = String::from(sql::PIN);
    for queue in queues {
        sql.push_str(&script(&queue.into_queue_name()?));
    }
    Ok(sql)
}

/// What one queue needs of [`ordering_sql`].
pub(crate) fn script(queue: &QueueName) -> String {
    let mut sql = String::new();
    for statement in statements(queue) {
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "{statement};");
    }
    sql
}

/// Creates the indexes that are absent or invalid, if the queue is small. Returns whether it is.
///
/// Building blocks publishers, but not for long on a small queue.
pub(crate) async fn create_on_small(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<bool, sqlx::Error> {
    let is_small: Option<bool> = sqlx::query_scalar(
        "SELECT pg_table_size(oid) <= $2 FROM pg_catalog.pg_class
         WHERE oid = to_regclass('pgmq.' || quote_ident('q_' || $1))",
    )
    .bind(queue.as_str())
    .bind(SMALL)
    .fetch_optional(&mut *connection)
    .await?;

    if is_small == Some(false) {
        return Ok(false);
    }

    let mut tx = connection.begin().await?;
    // Waiting for ezq's lock blocks only others who change the schema.
    sqlx::query("SET LOCAL lock_timeout = '5s'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK_KEY)
        .execute(&mut *tx)
        .await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;

    for name in broken(&mut tx, queue).await? {
        let drop = format!("DROP INDEX {}", sql::in_pgmq(&name));
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *tx).await?;
    }

    for statement in statements(queue) {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *tx)
            .await?;
    }

    tx.commit().await?;
    Ok(true)
}

/// Creates the indexes concurrently, on a connection of its own, however long it takes. Returns
/// false if another process is building. Invalid indexes are built again.
pub(crate) async fn create_beside(connector: &Connector, queue: &QueueName) -> Result<bool> {
    let mut connection = connector.connect().await?;
    let built = build(&mut connection, queue).await;
    // Ends the session, and with it the lock.
    let _ = connection.close().await;
    built.map_err(|failure| error::on_queue(failure, queue, connector.place()))
}

async fn build(connection: &mut PgConnection, queue: &QueueName) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql("SET statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    // Two builds at once would wait for each other. The lock is the session's, since a concurrent
    // build is no transaction.
    let is_alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(BUILD_KEY)
        .fetch_one(&mut *connection)
        .await?;
    if !is_alone {
        return Ok(false);
    }

    // An index that somebody is building by hand is not dropped: that times out on its lock.
    for name in broken(connection, queue).await? {
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", sql::in_pgmq(&name));
        sqlx::raw_sql(AssertSqlSafe(drop))
            .execute(&mut *connection)
            .await?;
    }

    // A concurrent build waits for older transactions.
    sqlx::raw_sql("SET lock_timeout = '10min'")
        .execute(&mut *connection)
        .await?;
    for statement in statements(queue) {
        let statement = statement.replacen("create index", "create index concurrently", 1);
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await?;
    }

    Ok(true)
}

/// Invalid indexes, left by a failed build: `if not exists` would take them for complete.
async fn broken(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Vec<String>, sqlx::Error> {
    let broken = "SELECT c.relname::text FROM pg_catalog.pg_index i
                  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
                  WHERE i.indrelid = to_regclass('pgmq.' || quote_ident('q_' || $1)) AND NOT i.indisvalid
                    AND c.relname IN ('q_' || $1 || '_ezq_keys', 'q_' || $1 || '_ezq_held',
                                      'q_' || $1 || '_ezq_plain')";
    sqlx::query_scalar(broken)
        .bind(queue.as_str())
        .fetch_all(connection)
        .await
}
