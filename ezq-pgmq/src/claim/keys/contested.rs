//! Finding ordering keys that two workers hold at once.

use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::sql;
use crate::sql::keys::leased;

/// Those of the claimed keys of which another worker has a message as well. This happens when two
/// claims run at once and one does not see an earlier message yet, or when a renewal comes between.
pub(crate) async fn find(
    connection: &mut PgConnection,
    queue: &QueueName,
    is_indexed: bool,
    keys: &[i64],
    ids: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    // Looked up by their hash. `<> ALL` would compare each leased message with each of these, unless the plan is
    // made for this call.
    let others = " AND l.msg_id NOT IN (SELECT pg_catalog.unnest($2::bigint[]))";
    let leased = leased(&sql::table(queue), "k.key", is_indexed, others);
    let statement =
        format!("SELECT k.key FROM pg_catalog.unnest($1::bigint[]) k(key) WHERE {leased}");
    let query = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(keys)
        .bind(ids);
    query.fetch_all(connection).await
}
