//! Operations on all events that match: rows of `ezq.operations`, and their steps.
//!
//! A step locks the row of its operation, acts on the next events in the order of their ids, and writes
//! the new position and counts, in one transaction. So no two processes take one step, and what a killed
//! process did not commit is done by whoever goes on.

use ezq_core::engine::{
    AuditAction, EventAction, EventState, Operation, OperationStatus, Selection, Signature,
};
use ezq_core::message::{MessageId, QueueName};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::admin::acting::{self, Locked};
use crate::admin::audit;
use crate::admin::selection::{Page, Range, next, table};
use crate::error;
use crate::message::encoding::{Encoding, from_json};
use crate::sql::BEGIN;

/// How many events a step acts on.
const STEP: i64 = 100;
const COLUMNS: &str = "id, action, queue, target, state, filter::text AS filter, last_id, position, done,
    skipped, failed, total, by, reason, began_at, moved_at, ended_at, stopped_at IS NOT NULL AS is_stopped";

/// How a step goes about its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All of them at once. Rows that others have locked are waited for.
    Whole,
    /// Waiting took too long: locked rows are passed over, and count as failed.
    Unlocked,
    /// The database refused one of them: the next one alone.
    Single,
    /// It refused that one: it counts as failed.
    PassedOver,
}

impl Pace {
    /// How to go on after a failure, if that can help.
    pub(crate) fn slower(self, failure: &sqlx::Error) -> Option<Self> {
        match self {
            Self::Whole if error::is_locked(failure) => Some(Self::Unlocked),
            Self::Whole | Self::Unlocked if error::is_of_row(failure) => Some(Self::Single),
            Self::Single if error::is_of_row(failure) => Some(Self::PassedOver),
            _ => None,
        }
    }

    fn limit(self) -> i64 {
        match self {
            Self::Whole | Self::Unlocked => STEP,
            Self::Single | Self::PassedOver => 1,
        }
    }

    fn locked(self) -> Locked {
        match self {
            Self::Whole => Locked::WaitedFor,
            _ => Locked::PassedOver,
        }
    }
}

/// What became of the events of one step.
#[derive(Debug, Default)]
struct Counts {
    done: i64,
    skipped: i64,
    failed: i64,
}

/// Stores an operation and records it. One that is there already is returned as it is.
pub(crate) async fn start(
    connection: &mut PgConnection,
    operation: &Operation,
    encoding: Encoding,
) -> Result<Operation, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let started = begin(&mut tx, operation, encoding).await;
    end(tx, started).await
}

async fn begin(
    connection: &mut PgConnection,
    operation: &Operation,
    encoding: Encoding,
) -> Result<Operation, sqlx::Error> {
    let Operation {
        id,
        action,
        selection,
        signature,
        total,
        ..
    } = operation;
    // One that could take no step is not stored.
    acting::rehearse(&mut *connection, action, selection).await?;

    let statement = "
        INSERT INTO ezq.operations
          (id, action, queue, target, state, filter, last_id, total, by, reason)
        VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10)
        ON CONFLICT (id) DO NOTHING";
    let last = selection.last.as_ref().and_then(MessageId::as_number);
    let stored = sqlx::query(statement)
        .bind(id)
        .bind(action.name())
        .bind(selection.queue.as_str())
        .bind(action.target().map(QueueName::as_str))
        .bind(selection.state.to_string())
        .bind(encoding.json(&selection.filter))
        .bind(last.unwrap_or(0))
        .bind(total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)))
        .bind(encoding.name(&signature.by))
        .bind(audit::reason(signature, encoding))
        .execute(&mut *connection)
        .await?;
    if stored.rows_affected() > 0 {
        let action = AuditAction::from(action);
        audit::of_operation(
            &mut *connection,
            action,
            operation,
            signature,
            *total,
            encoding,
        )
        .await?;
    }
    let mut found = list(connection, Some(id), 1).await?;
    found.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Ends a transaction. A dropped one ends with the next use of the connection, and would keep its locks
/// until then.
async fn end<T>(
    tx: sqlx::Transaction<'_, sqlx::Postgres>,
    result: Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    match result {
        Ok(value) => tx.commit().await.map(|()| value),
        Err(failure) => {
            let _ = tx.rollback().await;
            Err(failure)
        }
    }
}

/// Takes the next step of an operation. Returns how far it is then; `None` if there is none.
pub(crate) async fn step(
    connection: &mut PgConnection,
    id: &str,
    pace: Pace,
    encoding: Encoding,
) -> Result<Option<Operation>, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let stepped = step_in(&mut tx, id, pace, encoding).await;
    end(tx, stepped).await
}

async fn step_in(
    connection: &mut PgConnection,
    id: &str,
    pace: Pace,
    encoding: Encoding,
) -> Result<Option<Operation>, sqlx::Error> {
    let Some(operation) = locked(&mut *connection, id).await? else {
        return Ok(None);
    };
    if !operation.is_running() {
        return Ok(Some(operation));
    }

    let range = Range {
        after: number(operation.position.as_ref()),
        last: number(operation.selection.last.as_ref()),
    };
    let selection = &operation.selection;
    let Page { found, reached } =
        next(&mut *connection, selection, range, pace.limit(), encoding).await?;
    let counts = act(&mut *connection, &operation, &found, pace).await?;

    let statement = format!(
        "UPDATE ezq.operations
         SET position = $2, done = done + $3, skipped = skipped + $4, failed = failed + $5,
             moved_at = clock_timestamp(),
             ended_at = CASE WHEN $2 >= last_id THEN clock_timestamp() END
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .bind(reached)
        .bind(counts.done)
        .bind(counts.skipped)
        .bind(counts.failed)
        .fetch_one(&mut *connection)
        .await?;
    let moved = read(&row)?;
    if moved.status == OperationStatus::Ended {
        let action = AuditAction::EndOperation;
        let count = Some(moved.done);
        audit::of_operation(
            connection,
            action,
            &moved,
            &moved.signature,
            count,
            encoding,
        )
        .await?;
    }
    Ok(Some(moved))
}

/// The operation, with its row locked: of two processes, one waits here.
async fn locked(connection: &mut PgConnection, id: &str) -> Result<Option<Operation>, sqlx::Error> {
    let statement = format!("SELECT {COLUMNS} FROM ezq.operations WHERE id = $1 FOR UPDATE");
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

fn number(id: Option<&MessageId>) -> i64 {
    id.and_then(MessageId::as_number).unwrap_or(0)
}

/// Acts on events that were found, as far as they are still in their state once they are locked.
async fn act(
    connection: &mut PgConnection,
    operation: &Operation,
    found: &[MessageId],
    pace: Pace,
) -> Result<Counts, sqlx::Error> {
    let Operation {
        action, selection, ..
    } = operation;
    let Selection { queue, state, .. } = selection;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    if found.is_empty() || pace == Pace::PassedOver {
        let failed = count(found.len());
        return Ok(Counts {
            failed,
            ..Counts::default()
        });
    }

    let table = table(selection);
    let locked = acting::look(&mut *connection, queue, &table, found, pace.locked()).await?;
    let held = locked.len();
    let done = if *state == EventState::Dead {
        let ids: Vec<MessageId> = locked.into_iter().map(|(id, ..)| id).collect();
        acting::dead(connection, queue, action, &ids).await?.len()
    } else {
        let mut meant = locked;
        meant.retain(|(_, copy, now)| EventState::of(copy, *now) == Some(*state));
        let ids: Vec<MessageId> = meant.into_iter().map(|(id, ..)| id).collect();
        acting::live(connection, queue, action, &ids).await?;
        ids.len()
    };

    // Of rows that are passed over, nothing tells whether they are locked or gone.
    let (gone, failed) = match pace.locked() {
        Locked::WaitedFor => (found.len() - held, 0),
        Locked::PassedOver => (0, found.len() - held),
    };
    Ok(Counts {
        done: count(done),
        skipped: count(gone + held - done),
        failed: count(failed),
    })
}

/// A change of an operation's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Stop,
    Proceed,
}

/// Stops an operation, or lets it go on. Returns how far it is; `None` if there is none.
pub(crate) async fn turn(
    connection: &mut PgConnection,
    id: &str,
    signature: &Signature,
    turn: Turn,
    encoding: Encoding,
) -> Result<Option<Operation>, sqlx::Error> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let turned = turn_in(&mut tx, id, signature, turn, encoding).await;
    end(tx, turned).await
}

async fn turn_in(
    connection: &mut PgConnection,
    id: &str,
    signature: &Signature,
    turn: Turn,
    encoding: Encoding,
) -> Result<Option<Operation>, sqlx::Error> {
    let Some(operation) = locked(&mut *connection, id).await? else {
        return Ok(None);
    };
    let from = match turn {
        Turn::Stop => OperationStatus::Running,
        Turn::Proceed => OperationStatus::Stopped,
    };
    if operation.status != from {
        return Ok(Some(operation));
    }

    let stopped_at = match turn {
        Turn::Stop => "clock_timestamp()",
        Turn::Proceed => "NULL",
    };
    let statement = format!(
        "UPDATE ezq.operations SET stopped_at = {stopped_at}, moved_at = clock_timestamp()
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
    let turned = read(&row)?;
    let count = Some(turned.done);
    let action = match turn {
        Turn::Stop => AuditAction::StopOperation,
        Turn::Proceed => AuditAction::ResumeOperation,
    };
    audit::of_operation(connection, action, &turned, signature, count, encoding).await?;
    Ok(Some(turned))
}

/// The newest operations, or the one of an id.
pub(crate) async fn list(
    connection: &mut PgConnection,
    id: Option<&str>,
    limit: i64,
) -> Result<Vec<Operation>, sqlx::Error> {
    let statement = format!(
        "SELECT {COLUMNS} FROM ezq.operations WHERE $1::text IS NULL OR id = $1
         ORDER BY began_at DESC, id DESC LIMIT $2"
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<Operation, sqlx::Error> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column);
    let name = |column: &str| -> Result<Option<QueueName>, sqlx::Error> {
        let name = text(column)?.map(|name| QueueName::new(&name)).transpose();
        name.map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let unknown = |what: &str| {
        let text =
            format!("an operation of `ezq.operations` has {what} that this ezq does not know");
        sqlx::Error::Decode(text.into())
    };
    let count = |column: &str| -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
    };

    let action = EventAction::from_parts(&text("action")?.unwrap_or_default(), name("target")?)
        .ok_or_else(|| unknown("an action"))?;
    let queue = name("queue")?.ok_or_else(|| unknown("a queue"))?;
    let state = text("state")?.and_then(|state| state.parse().ok());
    let mut selection = Selection::new(queue, state.ok_or_else(|| unknown("a state"))?);
    let filter = text("filter")?.and_then(|filter| from_json(&filter));
    // Without its filter it would act on everything.
    selection.filter = filter.ok_or_else(|| unknown("a filter"))?;
    let numbered = |number: i64| (number > 0).then_some(MessageId::Number(number));
    selection.last = numbered(row.try_get("last_id")?);

    let signature = Signature::new(text("by")?.unwrap_or_default()).reason(text("reason")?);
    let id: String = row.try_get("id")?;
    let mut operation = Operation::new(id, action, selection, signature, row.try_get("began_at")?);
    operation.position = numbered(row.try_get("position")?);
    operation.done = count("done")?;
    operation.skipped = count("skipped")?;
    operation.failed = count("failed")?;
    let total: Option<i64> = row.try_get("total")?;
    operation.total = total.map(|total| u64::try_from(total).unwrap_or(0));
    operation.moved_at = row.try_get("moved_at")?;
    operation.ended_at = row.try_get("ended_at")?;
    operation.status = match (operation.ended_at, row.try_get("is_stopped")?) {
        (Some(_), _) => OperationStatus::Ended,
        (None, true) => OperationStatus::Stopped,
        (None, false) => OperationStatus::Running,
    };
    Ok(operation)
}
