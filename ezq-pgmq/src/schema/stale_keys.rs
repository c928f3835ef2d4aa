//! Dedupe keys of a dropped queue: they are removed before the queue is created again.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

/// How many keys one statement removes.
const STEP: u32 = 10_000;

/// Whether the role may remove keys; no row where there is no table.
const REMOVABLE: &str = "
    SELECT pg_catalog.has_schema_privilege(relnamespace, 'USAGE')
           AND pg_catalog.has_table_privilege(oid, 'SELECT')
           AND pg_catalog.has_table_privilege(oid, 'DELETE')
    FROM pg_catalog.pg_class
    WHERE relname = 'dedupe' AND relnamespace = pg_catalog.to_regnamespace('ezq')";

/// Removes the keys of a queue that does not exist: the messages that they name are gone with it. A
/// queue may have millions of keys. Outside of a transaction, what was removed stays removed if
/// this is interrupted.
pub(crate) async fn free_absent(
    connection: &mut PgConnection,
    queue: &str,
) -> Result<(), sqlx::Error> {
    let is_removable: Option<bool> = sqlx::query_scalar(REMOVABLE)
        .fetch_optional(&mut *connection)
        .await?;
    match is_removable {
        None => return Ok(()),
        Some(true) => {}
        Some(false) => {
            ezq_core::private::warn!(
                queue,
                "the role may not remove from ezq.dedupe: dedupe keys of an earlier queue of this \
                 name stay in force"
            );
            return Ok(());
        }
    }

    let statement = format!(
        "DELETE FROM ezq.dedupe WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM ezq.dedupe
           WHERE queue = $1
             AND pg_catalog.to_regclass('pgmq.' || pg_catalog.quote_ident('q_' || $1)) IS NULL
           LIMIT {STEP}))"
    );

    loop {
        let query = sqlx::query(AssertSqlSafe(statement.clone())).bind(queue);
        if query.execute(&mut *connection).await?.rows_affected() == 0 {
            return Ok(());
        }
    }
}
