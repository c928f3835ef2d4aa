//! Reading what is paused.

use ezq_core::engine::{Pause, PauseTarget};
use ezq_core::message::{HandlerName, QueueName};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::tables::{Table, Tables};
use crate::error::missing;
use crate::message::encoding;

const READ: &str = "
    SELECT c.queue, c.handler, c.paused_at, c.paused_by, c.reason
    FROM ezq.controls c WHERE c.paused_at IS NOT NULL ORDER BY c.queue, c.handler";

/// Every pause, sorted by queue, those of whole queues first. `None` if the table may not be read.
pub(crate) async fn list(connection: &mut PgConnection) -> Result<Option<Vec<Pause>>, sqlx::Error> {
    let tables = Tables::default().probe(&mut *connection).await?;
    match tables.controls {
        Table::Absent => Ok(Some(Vec::new())),
        Table::Refused => Ok(None),
        Table::Readable => match all(connection).await {
            // It was dropped: nothing is paused.
            Err(failure) if missing::of_ezq(&failure).is_some() => Ok(Some(Vec::new())),
            read => read.map(Some),
        },
    }
}

/// Every pause of every queue.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Pause>, sqlx::Error> {
    let rows = sqlx::query(READ).fetch_all(connection).await?;
    // Another client may have written a name that no queue can have.
    let pauses = rows.iter().map(pause).collect::<Result<Vec<_>, _>>()?;
    Ok(pauses.into_iter().flatten().collect())
}

fn pause(row: &PgRow) -> Result<Option<Pause>, sqlx::Error> {
    let Ok(queue) = QueueName::new(row.try_get("queue")?) else {
        return Ok(None);
    };
    let handler: &str = row.try_get("handler")?;
    let target = match handler {
        "" => PauseTarget::queue(queue),
        written => {
            let handler = HandlerName::from(&*encoding::original(written));
            PauseTarget::handler(queue, handler)
        }
    };

    let by: Option<&str> = row.try_get("paused_by")?;
    let by = encoding::original(by.unwrap_or_default()).into_owned();
    let reason: Option<String> = row.try_get("reason")?;
    Ok(Some(
        Pause::new(target, row.try_get("paused_at")?, by).reason(reason),
    ))
}
