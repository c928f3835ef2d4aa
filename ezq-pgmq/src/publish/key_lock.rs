//! The lock of an ordering key, which publishers may take.

use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;

/// Takes the lock of a key until the transaction ends.
pub(crate) async fn take(
    connection: &mut PgConnection,
    queue: &QueueName,
    key: &str,
) -> Result<(), sqlx::Error> {
    // A lock id of ezq's own. The hashed text is unique: a queue's name cannot contain the
    // separator.
    sqlx::query("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('ezq/' || $1 || '/' || $2, 0))")
        .bind(queue.as_str())
        .bind(key)
        .execute(connection)
        .await?;
    Ok(())
}
