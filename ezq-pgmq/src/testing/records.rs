//! What the queues of a test's database keep, and retries made due.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ezq_core::engine::DeadLetter;
use ezq_core::message::QueueName;
use ezq_core::testing::{Hasten, Recorded, Records};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::admin::{dead_letters, overview};
use crate::error;
use crate::message::{headers, receipts};
use crate::sql::{self, archive};
use crate::testing::Database;

impl Database {
    /// What the queues keep.
    ///
    /// It is no async function, so that an assertion is a plain call, as on the memory engine. The
    /// statements run on a thread of their own, because the caller's runtime waits here.
    ///
    /// # Errors
    /// When the database could not be read.
    pub fn records(&self) -> Result<Records> {
        let options = self.options().clone();
        let reading = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(sqlx::Error::Io)?;
            runtime.block_on(async {
                let mut connection = connect(&options).await?;
                let records = read(&mut connection).await?;
                connection.close().await?;
                Ok(records)
            })
        });
        match reading.join() {
            Ok(records) => records.map_err(|failure| error::of(failure, self.place())),
            Err(_) => Err(Error::new(
                ErrorKind::Engine,
                "reading the database of a test panicked",
            )),
        }
    }
}

/// A connection whose statements fail when a test holds a lock, for which it would wait for ever.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query("SET lock_timeout = '5s'")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

async fn read(connection: &mut PgConnection) -> Result<Records, sqlx::Error> {
    let mut records = Records::default();
    for queue in overview::queues(connection).await? {
        for (table, number) in [
            (sql::table(&queue), "q.msg_id".to_owned()),
            (archive::table(&queue), archive::number("q.msg_id")),
        ] {
            if exists(connection, &table).await? {
                let messages = messages(connection, &queue, &table, &number).await?;
                records.messages.extend(messages);
            }
        }

        if exists(connection, &sql::dead_table(&queue)).await? {
            let letters = dead_letters::list(connection, &queue, None, usize::MAX).await?;
            let died = letters.iter().map(|letter| recorded(&queue, letter));
            records.messages.extend(died);
            let named = letters.into_iter().map(|letter| (queue.clone(), letter));
            records.dead.extend(named);
        }
    }

    records
        .messages
        .sort_by_key(|one| (one.at, one.id.as_number()));
    Ok(records)
}

async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(connection)
        .await
}

async fn messages(
    connection: &mut PgConnection,
    queue: &QueueName,
    table: &str,
    number: &str,
) -> Result<Vec<Recorded>, sqlx::Error> {
    let statement = format!(
        "SELECT {number} AS msg_id, q.enqueued_at, q.message::text AS body, q.headers::text AS headers,
                CASE WHEN q.read_ct = 0 AND q.vt > clock_timestamp() THEN q.vt END AS scheduled
         FROM {table} q"
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .fetch_all(connection)
        .await?;
    let messages = rows.iter().map(|row| {
        Ok(Recorded {
            queue: queue.clone(),
            id: receipts::message_id(row)?,
            body: row.try_get("body")?,
            headers: headers::read(row.try_get("headers")?),
            at: row.try_get("enqueued_at")?,
            scheduled: row.try_get::<Option<DateTime<Utc>>, _>("scheduled")?,
        })
    });
    messages.collect()
}

/// A dead letter as the message that was published.
fn recorded(queue: &QueueName, letter: &DeadLetter) -> Recorded {
    Recorded {
        queue: queue.clone(),
        id: letter.original_id.as_ref().unwrap_or(&letter.id).clone(),
        body: letter.body.clone(),
        headers: letter.headers.clone(),
        at: letter.enqueued_at,
        scheduled: None,
    }
}

/// Makes the messages due in which a handler waits for a retry. The pause is also in the mark of the
/// handler, which would not run before its end.
fn hasten(queue: &QueueName) -> String {
    let table = sql::table(queue);
    format!(
        "UPDATE {table} q SET vt = clock_timestamp(), headers = (
           SELECT jsonb_object_agg(h.key, CASE WHEN starts_with(h.key, 'ezq-h:')
             AND jsonb_typeof(h.value) = 'object' THEN h.value - 'due' ELSE h.value END)
           FROM jsonb_each(q.headers) h)
         WHERE q.vt > clock_timestamp() AND q.read_ct > 0 AND jsonb_typeof(q.headers) = 'object'
           AND EXISTS (SELECT FROM jsonb_each(q.headers) h
             WHERE starts_with(h.key, 'ezq-h:') AND h.value ->> 'state' = 'retry'
               AND h.value ->> 'due' IS NOT NULL)"
    )
}

impl Hasten for Database {
    async fn hasten(&self, queues: &BTreeSet<QueueName>) -> Result<u64> {
        let hastened = async {
            let mut connection = connect(self.options()).await?;
            let mut count = 0;
            for queue in queues {
                let statement = sqlx::query(AssertSqlSafe(hasten(queue)));
                count += statement.execute(&mut connection).await?.rows_affected();
            }
            connection.close().await?;
            Ok(count)
        };
        let hastened: Result<u64, sqlx::Error> = hastened.await;
        hastened.map_err(|failure| error::of(failure, self.place()))
    }
}
