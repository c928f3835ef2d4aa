//! The look into several queues: one statement tells for each whether a claim could find anything.
//!
//! It reads the first entry of each queue's index on `vt`. Where that is not due, nothing is. Where it is,
//! the message may be locked, or held up by another of its key: only a claim tells.
//!
//! It locks the tables as any reader does, and all of them until it ends. So it waits for a lock much
//! shorter than the server's `deadlock_timeout`: it never makes another session the victim of a deadlock.

use std::time::Duration;

use ezq_core::engine::Looked;
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::sql;

/// How many queues one statement looks into. It locks a table and its indexes for each, and the server has
/// room for some thousand such locks in all.
pub(crate) const MOST: usize = 50;

/// The limits of the statement that follows, and whether a claim would be refused.
const LIMITS: &str = "\
SELECT pg_catalog.set_config('lock_timeout', '100ms', true),
       pg_catalog.set_config('statement_timeout', '1s', true),
       pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool AS is_read_only";

/// Looks into at most [`MOST`] queues. One answer for each, in their order.
pub(crate) async fn look(
    connection: &mut PgConnection,
    queues: &[QueueName],
) -> Result<Vec<Looked>, sqlx::Error> {
    // Both statements are one message, and so one transaction. It is planned each time: the queues that are
    // idle together change, and so does what their tables hold.
    let text = AssertSqlSafe(format!("{LIMITS};\n{}", statement(queues)));
    let rows = sqlx::raw_sql(text).fetch_all(connection).await?;
    let Some((limits, rows)) = rows.split_first() else {
        return Err(sqlx::Error::RowNotFound);
    };

    // A claim would be refused: whoever asks is to see that.
    if limits.try_get("is_read_only")? {
        return Ok(vec![Looked::Perhaps; queues.len()]);
    }
    rows.iter().map(answer).collect()
}

fn answer(row: &PgRow) -> Result<Looked, sqlx::Error> {
    let wait_us: Option<i64> = row.try_get("wait_us")?;
    Ok(match wait_us.map(u64::try_from) {
        None => Looked::Nothing { next_due: None },
        Some(Ok(wait)) if wait > 0 => Looked::Nothing {
            next_due: Some(Duration::from_micros(wait)),
        },
        Some(_) => Looked::Perhaps,
    })
}

/// For each queue the time until its first message falls due; NULL if there is none, and not positive if
/// only a claim can tell.
fn statement(queues: &[QueueName]) -> String {
    let firsts: Vec<String> = queues.iter().map(first).collect();
    let firsts = firsts.join(",\n");
    // A table that may be read and not claimed from is left to a claim, which says so.
    format!(
        "\
SELECT CASE WHEN first.due IS NOT NULL THEN pg_catalog.ceil(1000000 * extract(epoch FROM
         least(greatest(first.due, pg_catalog.statement_timestamp()),
               pg_catalog.statement_timestamp() + interval '1 year')
         - pg_catalog.statement_timestamp()))::bigint END AS wait_us
FROM unnest(ARRAY[
{firsts}
]::timestamptz[]) WITH ORDINALITY AS first(due, place)
ORDER BY first.place"
    )
}

fn first(queue: &QueueName) -> String {
    let table = sql::table(queue);
    format!(
        "  CASE WHEN pg_catalog.has_table_privilege('{table}'::regclass, 'UPDATE')
    THEN (SELECT c.vt FROM {table} c ORDER BY c.vt LIMIT 1) ELSE '-infinity' END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_is_as_rendered() {
        let queues = ["orders", "mail"].map(|name| QueueName::new(name).unwrap());
        crate::sql::rendered::assert_rendered("claim/rendered/look.sql", &statement(&queues));
    }
}
