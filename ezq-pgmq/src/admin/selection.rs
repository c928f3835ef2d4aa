//! Finding what a selection means: events of a queue in a state that meet a filter, in the order of their
//! ids, over a bounded number of rows.

use ezq_core::engine::{EventState, Preview, Selection};
use ezq_core::message::MessageId;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::admin::copies::copy;
use crate::admin::filter;
use crate::message::encoding::Encoding;
use crate::message::receipts;
use crate::sql;

/// How many rows are looked at for a page, so that a filter that matches little costs no more.
const SCAN: i64 = 10_000;
/// How many events a page has when they are only counted.
const COUNTED: i64 = 1000;

/// The numbers that are left to look at: those behind the first, up to the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) after: i64,
    pub(crate) last: i64,
}

/// The next events that match, and the last number that was looked at.
pub(crate) struct Page {
    pub(crate) found: Vec<MessageId>,
    pub(crate) reached: i64,
}

/// The table of what is selected: the queue's, or that of its dead letters.
pub(crate) fn table(selection: &Selection) -> String {
    match selection.state {
        EventState::Dead => sql::dead_table(&selection.queue),
        _ => sql::table(&selection.queue),
    }
}

/// The number of the newest event.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    selection: &Selection,
) -> Result<Option<i64>, sqlx::Error> {
    let statement = format!("SELECT max(msg_id) FROM {}", table(selection));
    sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
}

/// Counts in full what a selection means. The number of the newest event is taken first, so that nothing
/// counts that is stored meanwhile.
pub(crate) async fn preview(
    connection: &mut PgConnection,
    selection: &Selection,
    encoding: Encoding,
) -> Result<Preview, sqlx::Error> {
    let last = match selection.last.as_ref().and_then(MessageId::as_number) {
        Some(last) => Some(last),
        None => newest(&mut *connection, selection).await?,
    };
    let count = match (&selection.filter.failure, last) {
        (_, None) => 0,
        (None, Some(last)) => count(connection, selection, last, encoding).await?,
        (Some(_), Some(last)) => count_failures(connection, selection, last, encoding).await?,
    };
    Ok(Preview::new(count, last.map(MessageId::Number)))
}

async fn count(
    connection: &mut PgConnection,
    selection: &Selection,
    last: i64,
    encoding: Encoding,
) -> Result<u64, sqlx::Error> {
    let statement = format!(
        "SELECT count(*) FROM (SELECT FROM {} q
         WHERE q.msg_id > $1 AND q.msg_id <= $2 AND {} AND {} LIMIT $3) q",
        table(selection),
        filter::is_due(selection.state),
        filter::conditions(selection.state)
    );
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
    let query = query.bind(0_i64).bind(last).bind(None::<i64>);
    let row = filter::bind(query, &selection.filter, encoding)
        .fetch_one(connection)
        .await?;
    let count: i64 = row.try_get(0)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Counts page by page: a statement compares a part of the error only.
async fn count_failures(
    connection: &mut PgConnection,
    selection: &Selection,
    last: i64,
    encoding: Encoding,
) -> Result<u64, sqlx::Error> {
    let mut range = Range { after: 0, last };
    let mut count = 0;
    while range.after < range.last {
        let page = next(&mut *connection, selection, range, COUNTED, encoding).await?;
        count += u64::try_from(page.found.len()).unwrap_or(0);
        range.after = page.reached;
    }
    Ok(count)
}

/// The rows of a range (`$1`, `$2`) in order, as many as may be looked at.
fn scanned(selection: &Selection, columns: &str, last: &str) -> String {
    format!(
        "SELECT {columns} FROM {} q WHERE q.msg_id > $1 AND q.msg_id <= $2 ORDER BY q.msg_id {last}",
        table(selection)
    )
}

/// Finds the next events that match.
pub(crate) async fn next(
    connection: &mut PgConnection,
    selection: &Selection,
    range: Range,
    limit: i64,
    encoding: Encoding,
) -> Result<Page, sqlx::Error> {
    let Selection {
        queue,
        state,
        filter,
        ..
    } = selection;
    let place = match state {
        EventState::Dead => "d",
        _ => "q",
    };
    // Headers are read only where the statement cannot tell all.
    let headers = match filter.failure {
        Some(_) => "q.headers::text",
        None => "NULL::text",
    };
    let columns = "q.msg_id, q.vt, q.read_ct, q.enqueued_at, q.message, q.headers";
    let statement = format!(
        "SELECT '{place}' AS place, q.msg_id, {} AS enqueued_at, {} AS at, q.read_ct,
                NULL::text AS event_type, NULL::text AS body, {headers} AS headers,
                statement_timestamp() AS now
         FROM ({}) q WHERE {} AND {} ORDER BY q.msg_id LIMIT $3",
        sql::bounded("q.enqueued_at"),
        sql::bounded("q.vt"),
        scanned(selection, columns, &format!("LIMIT {SCAN}")),
        filter::is_due(*state),
        filter::conditions(*state)
    );
    // A cached plan may date from when the table was empty: this one is made for each call.
    let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
    let query = query.bind(range.after).bind(range.last).bind(limit);
    let rows = filter::bind(query, filter, encoding)
        .fetch_all(&mut *connection)
        .await?;

    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let is_meant = match &filter.failure {
            Some(failure) => failure.is_of(&copy(queue, row)?),
            None => true,
        };
        if is_meant {
            found.push(receipts::message_id(row)?);
        }
    }
    let reached = match rows.last() {
        Some(row) if i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit => {
            row.try_get("msg_id")?
        }
        _ => scanned_to(connection, selection, range).await?,
    };
    Ok(Page { found, reached })
}

/// The last number that was looked at: that of the range, unless there were too many.
async fn scanned_to(
    connection: &mut PgConnection,
    selection: &Selection,
    range: Range,
) -> Result<i64, sqlx::Error> {
    let end = format!("OFFSET {} LIMIT 1", SCAN - 1);
    let statement = scanned(selection, "q.msg_id", &end);
    let reached: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statement))
        .persistent(false)
        .bind(range.after)
        .bind(range.last)
        .fetch_optional(connection)
        .await?;
    Ok(reached.unwrap_or(range.last))
}
