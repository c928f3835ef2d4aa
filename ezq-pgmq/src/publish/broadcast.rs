//! Storing a copy of an event in every subscribed queue. One call of a function in the schema `ezq`
//! reads the subscriptions and stores the copies.
//!
//! # Who gets a copy
//!
//! A subscription is a row of `ezq.subscriptions`: application, queue, pattern. Nobody relies on a copy
//! of these rows. The function `ezq.store_copies` (`ezq.broadcast` for other clients) asks who is subscribed
//! and stores one copy for each queue, in one statement of the publisher's. So a row that was added
//! or removed counts from the next event on.
//!
//! An engine remembers who got the last event of a type. It stores the next one by a statement that
//! names these queues, which is planned once, and compares them with who is subscribed. If they
//! differ, the function follows. A handler's `Tx` and events with a dedupe key use the function only.
//!
//! The function writes what publishing to that queue would write: due time, headers with ordering
//! key, dedupe key. It goes through the queues in the order of their names, in which every
//! publisher takes dedupe keys. A pattern with `*` or `#` is kept with a regular expression beside
//! it; other patterns are found by index. A handler's `Tx` keeps its broadcasts and stores them
//! before the fence.
//!
//! A queue that is subscribed and does not exist is told to the publisher, and takes nothing from
//! the others. It is not created: whoever dropped it may have meant it. If its consumer still runs,
//! that creates it again. Subscriptions, and the queues that get copies, belong to the default
//! engine.

use chrono::{DateTime, Utc};
use ezq_core::Result;
use ezq_core::engine::{BroadcastMessage, Dedupe, Original, PublishOutcome};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::connection::stop::mark;
use crate::error;
use crate::message::encoding::Encoding;
use crate::message::receipts;
use crate::publish::{recipients, row};
use crate::sql::units::micros;
use crate::wake::commits::{WRITER, Writer};

const COPIES: &str = "queue, message_id, stored_at, first_event_id";
const BROADCAST: &str =
    "ezq.store_copies($1, ($2::text)::jsonb, ($3::text)::jsonb, $4, $5, $6, $7, $8)";

/// What became of each copy, by queue.
pub(crate) type Copies = Vec<(QueueName, PublishOutcome)>;

/// A broadcast in the database's units.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    event_type: String,
    body: String,
    headers: Option<String>,
    after_us: i64,
    at: Option<DateTime<Utc>>,
    dedupe: Option<Dedupe>,
    keyed: bool,
}

impl Row {
    /// Converts a broadcast.
    ///
    /// # Errors
    /// The event cannot be stored.
    pub(crate) fn new(message: BroadcastMessage, encoding: Encoding) -> Result<Self> {
        let dedupe = message.dedupe.as_ref();
        let headers = row::storable(&message.body, &message.headers, dedupe, encoding)?;
        let (after_us, at) = row::due(message.due);
        let keyed = message.headers.key().is_some();
        let BroadcastMessage {
            event_type,
            body,
            dedupe,
            ..
        } = message;

        Ok(Self {
            event_type,
            body,
            headers,
            after_us,
            at,
            dedupe,
            keyed,
        })
    }

    pub(crate) fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Whether it has an ordering key.
    pub(crate) fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// Whether it has a dedupe key.
    pub(crate) fn is_deduped(&self) -> bool {
        self.dedupe.is_some()
    }
}

/// Stores the copies. [`PublishOutcome::Failed`] means that the queue does not exist.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    row: &Row,
) -> Result<Copies, sqlx::Error> {
    let copies = call(connection, row, format!("SELECT {COPIES} FROM {BROADCAST}")).await?;
    copies.iter().map(outcome).collect()
}

/// Stores the copies in queues that got the last one. `None` if others are subscribed now: then nothing
/// was stored.
pub(crate) async fn insert_known(
    connection: &mut PgConnection,
    row: &Row,
    queues: &[QueueName],
) -> Result<Option<Copies>, sqlx::Error> {
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let stored = sqlx::query(AssertSqlSafe(mark(None) + &recipients::statement(queues)))
        .bind(&row.event_type)
        .bind(names)
        .bind(&row.body)
        .bind(&row.headers)
        .bind(row.after_us)
        .bind(row.at)
        .fetch_all(connection)
        .await?;
    if stored.is_empty() {
        return Ok(None);
    }

    let mut copies: Copies = queues
        .iter()
        .map(|queue| {
            // Unless it is found below: a trigger of the queue's table may have refused the copy.
            let missing = PublishOutcome::Failed(error::queue_missing(queue));
            (queue.clone(), missing)
        })
        .collect();
    for copy in &stored {
        let place: i64 = copy.try_get("place")?;
        let message_id = receipts::message_id(copy)?;
        let outcome = usize::try_from(place)
            .ok()
            .and_then(|place| copies.get_mut(place));
        if let Some((_, outcome)) = outcome {
            *outcome = PublishOutcome::Stored(message_id);
        }
    }
    Ok(Some(copies))
}

/// The same in a caller's transaction, and the id of that transaction.
pub(crate) async fn insert_in(
    connection: &mut PgConnection,
    row: &Row,
) -> Result<(Copies, Option<Writer>), sqlx::Error> {
    let statement = format!("SELECT {COPIES}, {WRITER} AS writer FROM {BROADCAST}");
    let copies = call(connection, row, statement).await?;
    let writer = copies
        .first()
        .map(|copy| copy.try_get("writer"))
        .transpose()?;
    let copies = copies.iter().map(outcome).collect::<Result<_, _>>()?;
    Ok((copies, writer))
}

async fn call(
    connection: &mut PgConnection,
    row: &Row,
    statement: String,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let dedupe = row.dedupe.as_ref();
    sqlx::query(AssertSqlSafe(mark(None) + &statement))
        .bind(&row.event_type)
        .bind(&row.body)
        .bind(&row.headers)
        .bind(row.after_us)
        .bind(row.at)
        .bind(dedupe.map(Dedupe::key))
        .bind(dedupe.map(|dedupe| micros(dedupe.window())))
        .bind(dedupe.map(Dedupe::event_id))
        .fetch_all(connection)
        .await
}

fn outcome(copy: &PgRow) -> Result<(QueueName, PublishOutcome), sqlx::Error> {
    let queue = queue(copy)?;
    let Some(number) = copy.try_get("message_id")? else {
        let missing = PublishOutcome::Failed(error::queue_missing(&queue));
        return Ok((queue, missing));
    };

    let message_id = receipts::dated(number, copy.try_get("stored_at")?);
    let outcome = match copy.try_get::<Option<&str>, _>("first_event_id")? {
        Some(event_id) => PublishOutcome::Duplicate(Some(Original::new(message_id, event_id))),
        None => PublishOutcome::Stored(message_id),
    };

    Ok((queue, outcome))
}

/// The queue that a row names. A constraint of the table keeps it valid.
pub(crate) fn queue(row: &PgRow) -> Result<QueueName, sqlx::Error> {
    let name: &str = row.try_get("queue")?;
    QueueName::new(name).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
