//! What a program does that relays a queue without ezq.

use ezq::sqlx::{PgConnection, query_as, query_scalar};

use crate::check::check;
use crate::error::Result;

/// Reads messages with `pgmq.read`, as a relay written by hand does: their ids and their bodies.
pub(crate) async fn read_by_hand(
    connection: &mut PgConnection,
    queue: &str,
    count: usize,
) -> Result<(Vec<i64>, Vec<String>)> {
    // 30 s of invisibility, which no batch takes.
    let read = query_as("select msg_id, message::text from pgmq.read($1, 30, $2)");
    let messages: Vec<(i64, String)> = read
        .bind(queue)
        .bind(i32::try_from(count)?)
        .fetch_all(connection)
        .await?;
    Ok(messages.into_iter().unzip())
}

/// Deletes messages with `pgmq.delete`.
pub(crate) async fn delete_by_hand(
    connection: &mut PgConnection,
    queue: &str,
    ids: Vec<i64>,
) -> Result<()> {
    let deleted = query_scalar::<_, i64>("select pgmq.delete($1, $2)");
    let count = ids.len();
    let gone = deleted.bind(queue).bind(ids).fetch_all(connection).await?;
    check(
        "the number of messages that were deleted",
        gone.len() as u64,
        count,
    )
}
