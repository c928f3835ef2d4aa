//! The indexes of a queue with ordering keys, created once something with a key is met.

use std::fmt::Write as _;

use ezq_core::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::install::LOCK_KEY;
use crate::sql;

/// Who waits for the table's lock holds up every publisher: others' transactions come first, and it
/// is tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";

/// Whether the indexes of the queue `$1` stand and can be used.
pub(crate) const PROBE: &str = "
    (SELECT count(*) = 3 FROM pg_catalog.pg_index i
     JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = to_regclass('pgmq.q_' || $1) AND i.indisvalid
       AND c.relname IN ('q_' || $1 || '_ezq_keys', 'q_' || $1 || '_ezq_held',
                         'q_' || $1 || '_ezq_plain'))";

/// The statements that create the indexes of a queue: over its keys, over what is leased of them,
/// and over the messages without a key, so that a claim of these does not walk past the others.
fn statements(queue: &QueueName) -> [String; 3] {
    let table = sql::table(queue);
    let hash = "(hashtextextended(headers ->> 'x-pgmq-group', 0))";
    let until = super::held_until("");
    let keyed = "headers ->> 'x-pgmq-group' IS NOT NULL";
    let plain = "headers ->> 'x-pgmq-group' IS NULL";
    [
        format!(
            "create index if not exists q_{queue}_ezq_keys on {table} ({hash}, msg_id) where {keyed}"
        ),
        format!(
            "create index if not exists q_{queue}_ezq_held on {table} ({hash}, ({until})) \
             where {keyed} and read_ct > 0"
        ),
        format!("create index if not exists q_{queue}_ezq_plain on {table} (vt) where {plain}"),
    ]
}

/// The statements with which an administrator prepares queues for events with ordering keys, where
/// the application may not change the schema, or a large queue is not to be held up: `concurrently`
/// can be added to each. Without these indexes keys are kept all the same, only slowly.
///
/// ```
/// use ezq_core::QueueName;
///
/// let sql = ezq_pgmq::ordering_sql(&[QueueName::new("orders")?]);
/// assert!(sql.contains("create index if not exists q_orders_ezq_keys on pgmq.q_orders"));
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[must_use]
pub fn ordering_sql(queues: &[QueueName]) -> String {
    let mut sql = String::new();
    for statement in queues.iter().flat_map(statements) {
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "{statement};");
    }
    sql
}

/// Creates the indexes that are absent.
pub(crate) async fn create(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY).execute(&mut *tx).await?;
    for statement in statements(queue) {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    tx.commit().await
}
