//! The history of one event: what queue, archive, dead letters and trail still hold of it.
//!
//! Each queue is read by one statement, so an event that moves between its tables is seen once.
//! Only committed rows are read, and none is locked. Queues and dead letters are scanned; an
//! archive is searched by its index, if it has one.

use chrono::{DateTime, Utc};
use ezq_core::codec::flat_origin;
use ezq_core::engine::{EventCopy, History};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row};

use crate::admin::copies::copy;
use crate::admin::overview;
use crate::error::{self, missing};
use crate::message::encoding::Encoding;
use crate::retention::trail;
use crate::sql;
use crate::sql::archive::{self, LIFE};

/// The tables that a queue has, and whether the role may read all of them.
const TABLES: &str = "
    SELECT queue.name,
           bool_or(t.place = 'q') AS has_queue, bool_or(t.place = 'a') AS has_archive,
           bool_or(t.place = 'd') AS has_dead,
           bool_and(has_table_privilege(c.oid, 'SELECT')) AS is_readable,
           statement_timestamp() AS now
    FROM unnest($1::text[], $2::text[]) AS queue(name, dead)
    CROSS JOIN LATERAL (VALUES ('q', 'q_' || queue.name), ('a', 'a_' || queue.name),
                               ('d', 'q_' || queue.dead)) AS t(place, name)
    JOIN pg_catalog.pg_class c ON c.relnamespace = 'pgmq'::regnamespace AND c.relname = t.name
    GROUP BY queue.name ORDER BY queue.name";

/// Every copy of an event in one queue, or in all.
pub(crate) async fn read(
    connection: &mut PgConnection,
    event_id: &str,
    queue: Option<&QueueName>,
    encoding: Encoding,
) -> Result<History, sqlx::Error> {
    let asked = match queue {
        // No stored event has such an id.
        _ if !encoding.may_hold(event_id) => Vec::new(),
        Some(queue) => vec![queue.clone()],
        None => overview::queues(connection).await?,
    };

    let names: Vec<&str> = asked.iter().map(QueueName::as_str).collect();
    let dead: Vec<String> = asked.iter().map(QueueName::dead_letters).collect();
    let rows = sqlx::query(TABLES).bind(names).bind(dead);
    let rows = rows.fetch_all(&mut *connection).await?;
    let mut asked_at = Utc::now();
    let mut copies = Vec::new();
    let mut unread = Vec::new();

    for row in rows {
        asked_at = row.try_get("now")?;
        let name: String = row.try_get("name")?;
        let Ok(queue) = QueueName::new(&name) else {
            continue;
        };

        // The rest of the history is still of use.
        if !row.try_get::<bool, _>("is_readable")? {
            unread.push(format!("the queue `{name}`"));
            continue;
        }

        let search = Search::new(&queue, &row, event_id)?;
        let found = match search.run(connection, event_id).await {
            Err(failure) if error::is_data(&failure) => {
                search.run_singly(connection, event_id, &mut unread).await
            }
            found => found,
        };

        match found {
            Ok(found) => copies.extend(found),
            // Dropped since it was listed.
            Err(failure) if missing::of_pgmq(&failure).is_some() => {}
            Err(failure) => return Err(failure),
        }
    }

    match trail::read(connection, event_id, queue, &mut unread).await? {
        Some(told) => {
            // What was handled in the meantime is in the trail now: its older copy goes.
            copies.retain(|copy: &EventCopy| {
                let mut handled = told.iter();
                !handled.any(|now| copy.queue == now.queue && copy.message_id == now.message_id)
            });
            copies.extend(told);
        }
        None => unread.push("the trail".to_owned()),
    }

    let mut history = History::new(event_id, asked_at, copies);
    history.unread = unread;
    Ok(history)
}

/// Where and how one queue is searched.
struct Search<'a> {
    queue: &'a QueueName,
    /// Each table, with its mark in the answer and the column that tells when a row came into it.
    tables: Vec<(&'static str, String, &'static str)>,
    /// The number of an event in the flat form, whose body does not hold its id.
    number: Option<i64>,
}

impl<'a> Search<'a> {
    fn new(queue: &'a QueueName, row: &PgRow, event_id: &str) -> Result<Self, sqlx::Error> {
        let mut tables = Vec::new();
        if row.try_get("has_queue")? {
            tables.push(("q", sql::table(queue), "q.vt"));
        }

        if row.try_get("has_archive")? {
            tables.push(("a", archive::table(queue), "q.archived_at"));
        }

        if row.try_get("has_dead")? {
            tables.push(("d", sql::dead_table(queue), "q.enqueued_at"));
        }

        let origin = flat_origin(event_id).filter(|(name, _)| name == queue);
        let number = origin.and_then(|(_, id)| id.as_number());
        Ok(Self {
            queue,
            tables,
            number,
        })
    }

    /// Finds the copies in all tables. Without `reads` it leaves out columns that the server may be
    /// unable to send.
    fn statement(&self, reads: bool) -> String {
        let tables: Vec<String> = self
            .tables
            .iter()
            .map(|(place, table, time)| self.in_table(place, table, time, reads))
            .collect();
        tables.join(" UNION ALL ")
    }

    /// Finds the copies in one table, by a query for each condition, so that each can use its index.
    fn in_table(&self, place: &str, table: &str, time: &str, reads: bool) -> String {
        let number = match place {
            "a" => archive::number("q.msg_id"),
            _ => "q.msg_id".to_owned(),
        };
        let time = sql::bounded(time);
        let enqueued_at = sql::bounded("q.enqueued_at");
        let (event_type, headers, body) = match reads {
            true => (
                sql::event_type("q.message", "q.headers"),
                "q.headers::text",
                "q.message::text",
            ),
            false => ("NULL::text".to_owned(), "NULL::text", "NULL::text"),
        };

        let mut queries = Vec::new();
        for condition in self.conditions(place) {
            queries.push(format!(
                "SELECT '{place}' AS place, {number} AS msg_id, q.read_ct, {enqueued_at} AS enqueued_at,
                        {time} AS at, {event_type} AS event_type, {headers} AS headers,
                        {body} AS body,
                        statement_timestamp() AS now
                 FROM {table} q WHERE {condition}"
            ));
        }
        queries.join(" UNION ")
    }

    /// The conditions under which a row of a table is a copy: by the id in its body or its headers,
    /// and for the flat form by the number that it has, or had first.
    fn conditions(&self, place: &str) -> Vec<String> {
        let by_id = "message ->> 'id' = $1 AND message ? 'specversion' \
                     AND NOT coalesce(headers ? 'ezq-codec', false)";
        let beside = format!("headers ->> 'ce-id' = $1 AND {}", sql::ID_BESIDE);
        let mut conditions = vec![by_id.to_owned(), beside];
        if self.number.is_none() {
            return conditions;
        }

        let flat = "NOT coalesce(message ? 'specversion', false)";
        let had_number =
            |header: &str| format!("{flat} AND (headers #> '{{{header},id}}') = to_jsonb($2)");
        conditions.push(had_number("ezq-redriven"));
        conditions.push(had_number("ezq-replay"));
        conditions.push(match place {
            "d" => had_number("ezq-dead"),
            _ => format!("{flat} AND msg_id = $2"),
        });
        if place == "a" {
            let number = archive::number("msg_id");
            conditions.push(format!("{flat} AND msg_id >= {LIFE} AND {number} = $2"));
        }
        conditions
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        event_id: &str,
    ) -> Result<Vec<EventCopy>, sqlx::Error> {
        if self.tables.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self
            .bind(self.statement(true), event_id)
            .fetch_all(connection)
            .await?;
        rows.iter().map(|row| copy(self.queue, row)).collect()
    }

    /// The same, one by one, where the server cannot send one of them. That one comes without type
    /// and headers, and is noted in `unread`.
    async fn run_singly(
        &self,
        connection: &mut PgConnection,
        event_id: &str,
        unread: &mut Vec<String>,
    ) -> Result<Vec<EventCopy>, sqlx::Error> {
        let bare = self
            .bind(self.statement(false), event_id)
            .fetch_all(&mut *connection)
            .await?;
        let mut copies = Vec::with_capacity(bare.len());
        for bare in &bare {
            let place: &str = bare.try_get("place")?;
            let number: i64 = bare.try_get("msg_id")?;
            let stored_at: DateTime<Utc> = bare.try_get("enqueued_at")?;
            let one = format!(
                "SELECT * FROM ({}) c
                 WHERE c.place = '{place}' AND c.msg_id = {number} AND c.enqueued_at = ${}",
                self.statement(true),
                if self.number.is_some() { 3 } else { 2 }
            );
            let query = self.bind(one, event_id).bind(stored_at);

            match query.fetch_optional(&mut *connection).await {
                Ok(Some(row)) => copies.push(copy(self.queue, &row)?),
                // Handled or moved since it was found.
                Ok(None) => {}
                Err(failure) if error::is_data(&failure) => {
                    copies.push(copy(self.queue, bare)?);
                    let whose = match place {
                        "q" => "",
                        "a" => "archive of the ",
                        _ => "dead letters of the ",
                    };

                    unread.push(format!(
                        "type and headers of the message {number} in the {whose}queue `{}`, which the \
                         server cannot send",
                        self.queue
                    ));
                }
                Err(failure) => return Err(failure),
            }
        }

        Ok(copies)
    }

    fn bind<'q>(&self, statement: String, event_id: &str) -> Query<'q, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(statement)).bind(event_id.to_owned());
        match self.number {
            Some(number) => query.bind(number),
            None => query,
        }
    }
}
