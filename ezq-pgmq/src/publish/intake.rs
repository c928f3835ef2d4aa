//! Storing the messages of brokers. One transaction locks the positions of the partitions, inserts what lies
//! behind them, and moves them.
//!
//! Each message is stored once: whoever stores the same messages at the same time waits for the lock, and
//! then finds the position moved. A connection that is lost leaves it open whether the transaction was
//! committed, and the position tells.

use std::collections::BTreeMap;

use ezq_core::Result;
use ezq_core::broker::SourcePosition;
use ezq_core::engine::{Ingested, SourceBatch, StoredBatch, StoredPosition};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::QueryScalar;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row as _};

use crate::message::encoding::{Encoding, original};
use crate::publish::{Row, insert};
use crate::sql;

/// The most bytes in one statement, unless a single message is larger.
const STATEMENT_BYTES: usize = 32 * 1024 * 1024;

const POSITION: &str = "
    SELECT major::text, minor::text FROM ezq.positions WHERE source = $1 AND partition = $2";
/// A partition that is known keeps its position; one without a position gets it.
const BEGIN: &str = "
    INSERT INTO ezq.positions AS p (source, partition, major, minor)
    VALUES ($1, $2, $3::numeric, $4::numeric)
    ON CONFLICT (source, partition) DO UPDATE
      SET major = coalesce(p.major, excluded.major), minor = coalesce(p.minor, excluded.minor)
    RETURNING major::text, minor::text";
/// In one order, so that two who store several partitions do not lock each other out.
const LOCK: &str = "
    SELECT partition, major::text, minor::text FROM ezq.positions
    WHERE source = $1 AND partition = ANY ($2) ORDER BY partition FOR UPDATE";
const MOVE: &str = "
    UPDATE ezq.positions p
    SET major = m.major::numeric, minor = m.minor::numeric, updated_at = clock_timestamp()
    FROM unnest($2::text[], $3::text[], $4::text[]) AS m(partition, major, minor)
    WHERE p.source = $1 AND p.partition = m.partition";
const LIST: &str = "
    SELECT source, partition, major::text, minor::text, updated_at FROM ezq.positions
    ORDER BY source, partition";

/// Messages and dead letters of one queue, as rows.
#[derive(Default)]
struct QueueRows {
    messages: Vec<Row>,
    letters: Vec<Letter>,
}

/// A dead letter in the database's form.
struct Letter {
    body: String,
    headers: String,
    reason: String,
}

/// Batches whose messages the database can keep, as far as that is known before they are sent.
pub(crate) struct Intake<'b> {
    source: String,
    batches: &'b [SourceBatch],
    encoding: Encoding,
}

/// What was stored.
pub(crate) struct TakenIn {
    pub(crate) outcomes: Vec<StoredBatch>,
    /// The queues that got messages.
    pub(crate) queues: Vec<QueueName>,
}

impl<'b> Intake<'b> {
    /// Checks the messages of batches.
    ///
    /// # Errors
    /// The database cannot store one of them.
    pub(crate) fn new(
        source: &str,
        batches: &'b [SourceBatch],
        encoding: Encoding,
    ) -> Result<Self> {
        for (_, ingested) in batches.iter().flat_map(|batch| &batch.messages) {
            if let Ingested::Message(message) = ingested {
                super::checked(message, encoding)?;
            }
        }
        Ok(Self {
            source: encoding.name(source).into_owned(),
            batches,
            encoding,
        })
    }

    /// Stores what is new of the batches, all or nothing.
    pub(crate) async fn store(
        &self,
        connection: &mut PgConnection,
    ) -> Result<TakenIn, sqlx::Error> {
        let mut tx = connection.begin().await?;
        // Whoever stores messages of the same partitions waits here until this transaction has ended.
        let stored = self.lock(&mut tx).await?;

        let mut outcomes = Vec::with_capacity(self.batches.len());
        let mut rows = BTreeMap::new();
        let mut moves = Moves::default();
        for batch in self.batches {
            let name = self.encoding.name(&batch.partition).into_owned();
            let known = stored.get(&name).copied();
            let position = known.flatten();
            // A partition without a row counts as set back: without a lock, two could store the same.
            if known.is_none() || position < batch.after {
                outcomes.push(StoredBatch::SetBack { position });
                continue;
            }
            let new = batch.after_stored(position);

            let last = new.last().map(|(last, _)| *last);
            let new_count = new.len();
            self.collect(new, &mut rows)?;
            if let Some(last) = last {
                moves.push(name, last);
            }
            outcomes.push(StoredBatch::Stored {
                new: new_count,
                position: last.or(position),
            });
        }

        // Nothing new, or nothing that may be stored: the locks are all there is to give back.
        if outcomes.iter().any(StoredBatch::is_set_back) || moves.is_empty() {
            tx.rollback().await?;
            let queues = Vec::new();
            return Ok(TakenIn { outcomes, queues });
        }

        let mut queues = Vec::new();
        for (queue, QueueRows { messages, letters }) in rows {
            for part in parts(&messages) {
                insert(&mut tx, &queue, part).await?;
            }
            bury(&mut tx, &queue, &letters).await?;
            if !messages.is_empty() {
                queues.push(queue);
            }
        }
        // In the same transaction, or a message would be stored twice or left out after a crash.
        moves.run(&mut tx, &self.source).await?;
        tx.commit().await?;
        Ok(TakenIn { outcomes, queues })
    }

    /// Locks the positions of the partitions.
    async fn lock(
        &self,
        tx: &mut PgConnection,
    ) -> Result<BTreeMap<String, Option<SourcePosition>>, sqlx::Error> {
        let names: Vec<String> = self
            .batches
            .iter()
            .map(|batch| self.encoding.name(&batch.partition).into_owned())
            .collect();
        let rows = sqlx::query(LOCK)
            .bind(&self.source)
            .bind(names)
            .fetch_all(tx)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get("partition")?, position_of(row)?)))
            .collect()
    }

    /// Adds messages to the rows of their queues.
    fn collect(
        &self,
        messages: &[(SourcePosition, Ingested)],
        rows: &mut BTreeMap<QueueName, QueueRows>,
    ) -> Result<(), sqlx::Error> {
        for (_, ingested) in messages {
            match ingested {
                Ingested::Message(message) => {
                    // Checked before, so it fails for none.
                    let row = Row::new(message.clone(), self.encoding)
                        .map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
                    rows.entry(message.queue.clone())
                        .or_default()
                        .messages
                        .push(row);
                }
                Ingested::DeadLetter {
                    queue,
                    body,
                    headers,
                    reason,
                } => {
                    let letter = Letter {
                        body: body.clone(),
                        headers: self.encoding.json(headers.as_object()),
                        reason: self.encoding.reason(reason).to_string(),
                    };
                    rows.entry(queue.clone()).or_default().letters.push(letter);
                }
                _ => {
                    let text = "this engine is older than what it is asked to store";
                    return Err(sqlx::Error::Encode(text.into()));
                }
            }
        }
        Ok(())
    }
}

/// Parts of rows that fit into a statement each.
fn parts(rows: &[Row]) -> Vec<&[Row]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (at, row) in rows.iter().enumerate() {
        if at > start && bytes + row.bytes() > STATEMENT_BYTES {
            parts.extend(rows.get(start..at));
            start = at;
            bytes = 0;
        }
        bytes += row.bytes();
    }
    parts.extend(rows.get(start..).filter(|rest| !rest.is_empty()));
    parts
}

/// Inserts dead letters that were never messages of the queue. Each in a statement of its own: there are
/// few, and they may be large.
async fn bury(
    connection: &mut PgConnection,
    queue: &QueueName,
    letters: &[Letter],
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "INSERT INTO {} (vt, message, headers)
         SELECT clock_timestamp(), $1::text::jsonb,
                $2::text::jsonb || jsonb_build_object('ezq-dead', jsonb_build_object(
                  'reason', $3::text::jsonb, 'deliveries', 0,
                  'enqueued_at', clock_timestamp(), 'died_at', clock_timestamp()))",
        sql::dead_table(queue)
    );
    for letter in letters {
        sqlx::query(AssertSqlSafe(statement.as_str()))
            .bind(&letter.body)
            .bind(&letter.headers)
            .bind(&letter.reason)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// New positions, column by column.
#[derive(Default)]
struct Moves {
    partitions: Vec<String>,
    majors: Vec<String>,
    minors: Vec<String>,
}

impl Moves {
    fn push(&mut self, partition: String, to: SourcePosition) {
        self.partitions.push(partition);
        self.majors.push(to.major().to_string());
        self.minors.push(to.minor().to_string());
    }

    fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    async fn run(self, connection: &mut PgConnection, source: &str) -> Result<(), sqlx::Error> {
        sqlx::query(MOVE)
            .bind(source)
            .bind(self.partitions)
            .bind(self.majors)
            .bind(self.minors)
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// The position in a row. Columns are texts, because a number of 64 bits without a sign fits in no integer
/// of the database.
fn position_of(row: &PgRow) -> Result<Option<SourcePosition>, sqlx::Error> {
    let number = |column: &str| -> Result<Option<u64>, sqlx::Error> {
        let text: Option<&str> = row.try_get(column)?;
        let number = text.map(str::parse).transpose();
        number.map_err(|error| sqlx::Error::Decode(Box::new(error)))
    };
    let major = number("major")?;
    let minor = number("minor")?;
    Ok(major.map(|major| SourcePosition::new(major, minor.unwrap_or(0))))
}

/// The stored position of a partition.
pub(crate) async fn position(
    connection: &mut PgConnection,
    (source, partition): (&str, &str),
    encoding: Encoding,
) -> Result<Option<SourcePosition>, sqlx::Error> {
    let row = sqlx::query(POSITION)
        .bind(encoding.name(source))
        .bind(encoding.name(partition))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map_or(Ok(None), position_of)
}

/// Notes where a partition begins, unless that is known. Returns what is stored.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    (source, partition): (&str, &str),
    at: Option<SourcePosition>,
    encoding: Encoding,
) -> Result<Option<SourcePosition>, sqlx::Error> {
    let row = sqlx::query(BEGIN)
        .bind(encoding.name(source))
        .bind(encoding.name(partition))
        .bind(at.map(|at| at.major().to_string()))
        .bind(at.map(|at| at.minor().to_string()))
        .fetch_one(connection)
        .await?;
    position_of(&row)
}

/// All positions.
pub(crate) async fn list(
    connection: &mut PgConnection,
) -> Result<Vec<StoredPosition>, sqlx::Error> {
    let rows = sqlx::query(LIST).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let source = original(row.try_get("source")?);
            let partition = original(row.try_get("partition")?);
            let moved = row.try_get("updated_at")?;
            Ok(StoredPosition::new(
                source,
                partition,
                position_of(row)?,
                moved,
            ))
        })
        .collect()
}

/// Takes the lock of the session that reads a source. Answers false if another session has it.
pub(crate) fn take_seat(
    source: &str,
    encoding: Encoding,
) -> QueryScalar<'static, Postgres, bool, PgArguments> {
    let statement = "
        SELECT pg_catalog.pg_try_advisory_lock(
          pg_catalog.hashtextextended('ezq/source/' || $1, 0))";
    sqlx::query_scalar(statement).bind(encoding.name(source).into_owned())
}

#[cfg(test)]
mod tests {
    use ezq_core::engine::Outgoing;
    use ezq_core::message::headers::Headers;

    use super::*;

    #[test]
    fn rows_are_divided_where_a_statement_is_full_and_none_is_lost() {
        let queue = QueueName::new("q").unwrap();
        let row = |bytes: usize| {
            let body = format!("\"{}\"", "a".repeat(bytes - 2));
            Row::new(
                Outgoing::new(queue.clone(), body, Headers::new()),
                Encoding::Utf8,
            )
            .unwrap()
        };
        let half = STATEMENT_BYTES / 2;
        let rows = [
            row(half),
            row(half),
            row(4),
            row(STATEMENT_BYTES + 1),
            row(4),
        ];
        let lengths: Vec<usize> = parts(&rows).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert!(parts(&[]).is_empty());
    }
}
