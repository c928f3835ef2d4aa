//! Browsing a queue and its dead letters page by page: by an index, from where the last page ended, over a
//! bounded number of rows.

use chrono::{DateTime, Utc};
use ezq_core::engine::{EventCopy, EventPage, EventState, PageCursor, PageRequest};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row as _};

use crate::admin::copies::copy;
use crate::admin::filter;
use crate::error;
use crate::message::encoding::Encoding;
use crate::sql;

/// Where a page begins: behind this place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The due time; `None` among dead letters, and before the first message.
    due: Option<DateTime<Utc>>,
    id: i64,
}

impl Place {
    const FIRST: Self = Self {
        due: None,
        id: i64::MIN,
    };

    /// The place behind which a page begins.
    ///
    /// # Errors
    /// The cursor is none of this engine's.
    pub(crate) fn of_request(request: &PageRequest) -> ezq_core::Result<Self> {
        match &request.after {
            None => Ok(Self::FIRST),
            Some(cursor) => {
                let is_dead = request.state == EventState::Dead;
                Self::read(cursor.as_str(), is_dead).ok_or_else(|| cursor.refused())
            }
        }
    }

    /// Reads the text of a cursor: `<microseconds>.<id>`, or `<id>` among dead letters.
    fn read(text: &str, is_dead: bool) -> Option<Self> {
        if is_dead {
            let id = text.parse().ok()?;
            return Some(Self { due: None, id });
        }

        let (micros, id) = text.split_once('.')?;
        let due = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        Some(Self {
            due: Some(due),
            id: id.parse().ok()?,
        })
    }

    fn of(row: &PgRow, is_dead: bool) -> Result<Self, sqlx::Error> {
        let due: DateTime<Utc> = row.try_get("at")?;
        Ok(Self {
            due: (!is_dead).then_some(due),
            id: row.try_get("msg_id")?,
        })
    }

    fn cursor(self) -> PageCursor {
        PageCursor::new(match self.due {
            Some(due) => format!("{}.{}", due.timestamp_micros(), self.id),
            None => self.id.to_string(),
        })
    }
}

/// Reads the page behind a place.
pub(crate) async fn page(
    connection: &mut PgConnection,
    request: &PageRequest,
    place: Place,
    encoding: Encoding,
) -> Result<EventPage, sqlx::Error> {
    let search = Search {
        request,
        place,
        encoding,
    };
    let rows = match search.rows(&mut *connection, true).await {
        // The server cannot send one of the rows: all come without body, headers and type.
        Err(failure) if error::is_data(&failure) => search.rows(&mut *connection, false).await,
        rows => rows,
    }?;

    let copies = rows.iter().map(|row| copy(&request.queue, row));
    let mut events = copies.collect::<Result<Vec<EventCopy>, _>>()?;
    if let Some(failure) = &request.filter.failure {
        // The statement compared a part of the error only.
        events.retain(|event| failure.is_of(event));
    }
    let last = match rows.last() {
        Some(row) if rows.len() >= limit(request) => Some(Place::of(row, search.is_dead())?),
        // It is not full: it ends where the search ended.
        _ => search.end(connection).await?,
    };
    Ok(EventPage::new(events, last.map(Place::cursor)))
}

fn limit(request: &PageRequest) -> usize {
    request.limit.max(1)
}

struct Search<'a> {
    request: &'a PageRequest,
    place: Place,
    encoding: Encoding,
}

impl Search<'_> {
    fn is_dead(&self) -> bool {
        self.request.state == EventState::Dead
    }

    /// The rows behind the place, in order, as many as may be looked at. `$1` and `$2` are the place.
    fn scanned(&self, columns: &str, last: &str) -> String {
        let queue = &self.request.queue;
        if self.is_dead() {
            return format!(
                "SELECT {columns} FROM {} q WHERE q.msg_id > $2 AND $1::timestamptz IS NULL
                 ORDER BY q.msg_id {last}",
                sql::dead_table(queue)
            );
        }

        let due = match self.request.state {
            EventState::Ready => "q.vt <= statement_timestamp()",
            _ => "q.vt > statement_timestamp()",
        };
        // The index is read from the first condition on.
        format!(
            "SELECT {columns} FROM {} q
             WHERE {due} AND q.vt >= coalesce($1::timestamptz, '-infinity')
               AND (q.vt, q.msg_id) > (coalesce($1::timestamptz, '-infinity'), $2)
             ORDER BY q.vt, q.msg_id {last}",
            sql::table(queue)
        )
    }

    fn order(&self) -> &'static str {
        match self.is_dead() {
            true => "q.msg_id",
            false => "q.vt, q.msg_id",
        }
    }

    async fn rows(
        &self,
        connection: &mut PgConnection,
        reads: bool,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let statement = self.statement(reads);
        let limit = i64::try_from(limit(self.request)).unwrap_or(i64::MAX);
        // A cached plan may date from when the table was empty: this one is made for each call.
        let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
        let query = self.bind_place(query).bind(limit);
        let query = filter::bind(query, &self.request.filter, self.encoding);
        by_index(connection, query).await
    }

    fn bind_place<'q>(
        &self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments> {
        query.bind(self.place.due).bind(self.place.id)
    }

    /// The events on the page. The search goes on only until the page is full.
    fn statement(&self, reads: bool) -> String {
        let is_dead = self.is_dead();
        let place = if is_dead { "d" } else { "q" };
        let scan = self.request.scan.max(1);
        let columns = "q.msg_id, q.vt, q.read_ct, q.enqueued_at, q.message, q.headers";
        let scanned = self.scanned(columns, &format!("LIMIT {scan}"));
        let at = sql::bounded(if is_dead { "q.enqueued_at" } else { "q.vt" });
        let enqueued_at = sql::bounded("q.enqueued_at");
        let event_type = sql::event_type("q.message", "q.headers");
        let (told_type, headers, body) = match reads {
            true => (event_type.as_str(), "q.headers::text", "q.message::text"),
            false => ("NULL::text", "NULL::text", "NULL::text"),
        };
        let conditions = filter::conditions(self.request.state);
        let order = self.order();

        format!(
            "SELECT '{place}' AS place, q.msg_id, q.read_ct, {enqueued_at} AS enqueued_at, {at} AS at,
                    {told_type} AS event_type, {headers} AS headers, {body} AS body,
                    statement_timestamp() AS now
             FROM ({scanned}) q WHERE {conditions} ORDER BY {order} LIMIT $3"
        )
    }

    /// Where the search ended, if there may be more behind.
    async fn end(&self, connection: &mut PgConnection) -> Result<Option<Place>, sqlx::Error> {
        let scan = self.request.scan.max(1);
        let at = sql::bounded(if self.is_dead() {
            "q.enqueued_at"
        } else {
            "q.vt"
        });
        let columns = format!("q.msg_id, {at} AS at");
        let statement = self.scanned(&columns, &format!("OFFSET {} LIMIT 1", scan - 1));
        let query = sqlx::query(AssertSqlSafe(statement)).persistent(false);
        let rows = by_index(connection, self.bind_place(query)).await?;
        let row = rows.first();
        row.map(|row| Place::of(row, self.is_dead())).transpose()
    }
}

/// Reads rows by index, whatever the planner knows of the table.
pub(super) async fn by_index(
    connection: &mut PgConnection,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    // After an error it is rolled back, so that the caller can read in another way.
    let mut tx = connection.begin_with(sql::BEGIN_BY_INDEX).await?;
    let rows = query.fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
}
