//! Finding the keys that two claims hold at once.

use ezq_core::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::sql;
use crate::sql::keys::leased;

/// Of the keys of claimed messages, those of which someone else has a message, too: two claims that
/// ran at once, one of which could not see an earlier message yet, or a renewal that came between.
pub(crate) async fn find(
    connection: &mut PgConnection,
    queue: &QueueName,
    is_indexed: bool,
    keys: &[i64],
    ids: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let others = " AND l.msg_id <> ALL ($2::bigint[])";
    let leased = leased(&sql::table(queue), "k.key", is_indexed, others);
    let statement =
        format!("SELECT k.key FROM pg_catalog.unnest($1::bigint[]) k(key) WHERE {leased}");
    let query = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(keys)
        .bind(ids);
    query.fetch_all(connection).await
}
