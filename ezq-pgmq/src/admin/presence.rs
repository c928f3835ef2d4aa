//! The table of consumers: one statement notes all of a process, and removes what has not been noted for a
//! day.

use std::time::Duration;

use ezq_core::engine::{ConsumerPresence, SeenConsumer};
use ezq_core::message::{HandlerName, QueueName};
use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::message::encoding::{Encoding, original};

const NOTE: &str = "
    WITH forgotten AS (
      DELETE FROM ezq.consumers WHERE seen_at < clock_timestamp() - interval '1 day')
    INSERT INTO ezq.consumers AS c
      (id, application, version, ezq_version, host, process, queue, handlers, concurrency, in_flight,
       is_paused, is_stopping, handled, retried, dead_lettered, uptime_ms, seen_at)
    SELECT r.id, r.application, r.version, r.ezq_version, r.host, r.process, r.queue, r.handlers,
           r.concurrency, r.in_flight, r.is_paused, r.is_stopping, r.handled, r.retried,
           r.dead_lettered, r.uptime_ms, clock_timestamp()
    FROM jsonb_to_recordset($1::text::jsonb) AS r
      (id uuid, application text, version text, ezq_version text, host text, process bigint,
       queue text, handlers jsonb, concurrency bigint, in_flight bigint, is_paused boolean,
       is_stopping boolean, handled bigint, retried bigint, dead_lettered bigint, uptime_ms bigint)
    ORDER BY r.id
    ON CONFLICT (id) DO UPDATE SET
      (in_flight, is_paused, is_stopping, handled, retried, dead_lettered, uptime_ms, seen_at) =
      (excluded.in_flight, excluded.is_paused, excluded.is_stopping, excluded.handled,
       excluded.retried, excluded.dead_lettered, excluded.uptime_ms, excluded.seen_at)";

const LIST: &str = "
    SELECT c.id::text, c.application, c.version, c.ezq_version, c.host, c.process, c.queue, c.handlers,
           c.concurrency, c.in_flight, c.is_paused, c.is_stopping, c.handled, c.retried,
           c.dead_lettered, c.uptime_ms,
           floor(1000 * extract(epoch FROM statement_timestamp() - c.seen_at))::bigint AS seen_ms
    FROM ezq.consumers c WHERE c.seen_at >= statement_timestamp() - interval '1 day'
    ORDER BY c.queue, c.application, c.host, c.process, c.id";

/// Notes that consumers run.
pub(crate) async fn note(
    connection: &mut PgConnection,
    running: &[ConsumerPresence],
    encoding: Encoding,
) -> Result<(), sqlx::Error> {
    let rows = running.iter().map(|consumer| written(consumer, encoding));
    let rows = Value::from_iter(rows).to_string();
    sqlx::query(NOTE).bind(rows).execute(connection).await?;
    Ok(())
}

fn written(consumer: &ConsumerPresence, encoding: Encoding) -> Value {
    let name = |text: &str| encoding.name(text).into_owned();
    let handlers = consumer
        .handlers
        .iter()
        .map(|handler| name(handler.as_str()));
    json!({
        "id": consumer.id,
        "application": name(&consumer.application),
        "version": consumer.version.as_deref().map(name),
        "ezq_version": consumer.ezq_version,
        "host": name(&consumer.host),
        "process": consumer.process,
        "queue": consumer.queue.as_str(),
        "handlers": Vec::from_iter(handlers),
        "concurrency": whole(consumer.concurrency),
        "in_flight": whole(consumer.in_flight),
        "is_paused": consumer.is_paused,
        "is_stopping": consumer.is_stopping,
        "handled": whole(consumer.handled),
        "retried": whole(consumer.retried),
        "dead_lettered": whole(consumer.dead_lettered),
        "uptime_ms": i64::try_from(consumer.uptime.as_millis()).unwrap_or(i64::MAX),
    })
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Removes a consumer.
pub(crate) async fn remove(connection: &mut PgConnection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM ezq.consumers WHERE id::text = $1")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Every consumer of the last day.
pub(crate) async fn list(connection: &mut PgConnection) -> Result<Vec<SeenConsumer>, sqlx::Error> {
    let rows = sqlx::query(LIST).fetch_all(connection).await?;
    let seen = rows.iter().map(seen).collect::<Result<Vec<_>, _>>()?;
    Ok(seen.into_iter().flatten().collect())
}

/// A row; `None` if another client wrote a queue's name that ezq does not take.
fn seen(row: &PgRow) -> Result<Option<SeenConsumer>, sqlx::Error> {
    let Ok(queue) = QueueName::new(row.try_get("queue")?) else {
        return Ok(None);
    };
    let text = |column: &str| -> Result<String, sqlx::Error> {
        Ok(original(row.try_get(column)?).into_owned())
    };
    let number = |column: &str| -> Result<u64, sqlx::Error> {
        let number: i64 = row.try_get(column)?;
        Ok(u64::try_from(number).unwrap_or(0))
    };

    let process = u32::try_from(number("process")?).unwrap_or(0);
    let id: String = row.try_get("id")?;
    let mut consumer =
        ConsumerPresence::new(id, text("application")?, queue, text("host")?, process);
    let version: Option<&str> = row.try_get("version")?;
    consumer.version = version.map(|version| original(version).into_owned());
    consumer.ezq_version = row.try_get("ezq_version")?;
    consumer.handlers = handlers(&row.try_get("handlers")?);
    consumer.concurrency = number("concurrency")?;
    consumer.in_flight = number("in_flight")?;
    consumer.is_paused = row.try_get("is_paused")?;
    consumer.is_stopping = row.try_get("is_stopping")?;
    consumer.handled = number("handled")?;
    consumer.retried = number("retried")?;
    consumer.dead_lettered = number("dead_lettered")?;
    consumer.uptime = Duration::from_millis(number("uptime_ms")?);
    let seen_ago = Duration::from_millis(number("seen_ms")?);
    Ok(Some(SeenConsumer::new(consumer, seen_ago)))
}

fn handlers(names: &Value) -> Vec<HandlerName> {
    let names = names.as_array().into_iter().flatten();
    names
        .filter_map(Value::as_str)
        .map(|name| HandlerName::from(&*original(name)))
        .collect()
}
