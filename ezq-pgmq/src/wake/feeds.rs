//! Finding the queues that captures feed, and deciding which of them this session polls.

use std::collections::BTreeSet;

use ezq_core::message::QueueName;
use serde_json::Value;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::capture_poll::{CapturePoll, FedQueue, Snapshot};

/// What the types of captured events end with.
const OPERATIONS: [&str; 4] = ["created", "updated", "deleted", "truncated"];
/// The channel that tells listeners of a new capture or subscription.
pub(crate) const CHANNEL: &str = "ezq_captures";
/// The advisory lock of the session that polls a queue: this plus the oid of its table.
const LOCK_KEY: i64 = 0x65_7a_71_03 << 32;

/// The options of all captures. This also runs where nothing is captured, so it finds the functions
/// by the index over their names.
const CONFIGS: &str = "
    SELECT obj_description(p.oid, 'pg_proc'),
           ARRAY(SELECT i.inhparent::regclass::text || ' and ' || i.inhrelid::regclass::text
                 FROM pg_catalog.pg_trigger t
                 JOIN pg_catalog.pg_inherits i ON t.tgrelid IN (i.inhparent, i.inhrelid)
                 WHERE t.tgfoid = p.oid AND t.tgname = 'ezq_capture_insert')
    FROM pg_catalog.pg_proc p
    WHERE p.proname >= 'capture_' AND p.proname < 'capture`'
      AND p.pronamespace = to_regnamespace('ezq') AND p.prorettype = 'trigger'::regtype";

/// Queues, with the sequences of their ids. It takes the lock of a queue that is not held yet, if
/// it is free. A queue whose last id may not be read is not polled.
const FEEDS: &str = "
    SELECT q.name, q.lock, s.oid::bigint AS ids,
           has_sequence_privilege(s.oid, 'USAGE, SELECT')
             AND (q.lock = ANY ($3) OR pg_try_advisory_lock(q.lock)) AS is_ours
    FROM (SELECT w.name, $2 + c.oid::bigint AS lock,
                 to_regclass(pg_get_serial_sequence('pgmq.' || quote_ident('q_' || w.name), 'msg_id')) AS oid
          FROM unnest($1::text[]) AS w(name)
          JOIN pg_catalog.pg_class c ON c.oid = to_regclass('pgmq.' || quote_ident('q_' || w.name))
          OFFSET 0) q
    JOIN pg_catalog.pg_class s ON s.oid = q.oid";

const UNLOCK: &str = "SELECT pg_advisory_unlock(l) FROM unnest($1::bigint[]) AS l";

const LOOK: &str = "
    SELECT pg_current_snapshot()::text,
           ARRAY(SELECT pg_sequence_last_value(u.ids::oid)
                 FROM unnest($1::bigint[]) WITH ORDINALITY AS u(ids, place) ORDER BY u.place)";

/// What a session found out.
pub(crate) struct Feeds {
    /// Whether captures feed one of its queues, whoever polls it.
    pub(crate) is_fed: bool,
    /// Queues that this session polls from now on.
    pub(crate) new: Vec<QueueName>,
}

/// Finds those of `mine` that captures feed, and takes over those that no other session polls.
pub(crate) async fn refresh(
    connection: &mut PgConnection,
    mine: &[String],
    poll: &mut CapturePoll,
) -> Result<Feeds, sqlx::Error> {
    let fed = fed(connection, mine, poll).await?;
    if fed.is_empty() && poll.fed().is_empty() {
        return Ok(Feeds {
            is_fed: false,
            new: Vec::new(),
        });
    }

    let held: Vec<i64> = poll.fed().iter().map(|fed| fed.lock).collect();
    let query = sqlx::query(FEEDS).bind(&fed).bind(LOCK_KEY).bind(&held);
    let rows = query.fetch_all(&mut *connection).await?;
    let ours = rows.iter().filter_map(|row| ours(row).transpose());
    let ours = ours.collect::<Result<Vec<FedQueue>, _>>()?;

    let gone: Vec<i64> = held
        .into_iter()
        .filter(|lock| ours.iter().all(|fed| fed.lock != *lock))
        .collect();
    if !gone.is_empty() {
        sqlx::query(UNLOCK).bind(gone).execute(connection).await?;
    }

    Ok(Feeds {
        is_fed: !fed.is_empty(),
        new: poll.set(ours),
    })
}

fn ours(row: &PgRow) -> Result<Option<FedQueue>, sqlx::Error> {
    if !row.try_get::<bool, _>("is_ours")? {
        return Ok(None);
    }
    let name: &str = row.try_get("name")?;
    let queue = QueueName::new(name).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Some(FedQueue {
        queue,
        ids: row.try_get("ids")?,
        lock: row.try_get("lock")?,
    }))
}

/// Those of `mine` that captures feed: their own queues, and those subscribed to what they
/// broadcast.
async fn fed(
    connection: &mut PgConnection,
    mine: &[String],
    poll: &mut CapturePoll,
) -> Result<Vec<String>, sqlx::Error> {
    let found: Vec<(Option<String>, Vec<String>)> =
        sqlx::query_as(CONFIGS).fetch_all(&mut *connection).await?;
    let mut configs = Vec::new();
    for (config, inherits) in found {
        poll.warn_uncovered(inherits);
        configs.push(config);
    }

    let mut fed = BTreeSet::new();
    let mut broadcast = Vec::new();

    // Whoever owns a function may change its comment: one that cannot be read feeds nothing.
    let configs = configs.into_iter().flatten();
    for config in configs.filter_map(|text| serde_json::from_str::<Value>(&text).ok()) {
        let text = |field: &str| config.get(field).and_then(Value::as_str);
        match (text("queue"), text("name")) {
            (Some(queue), _) => drop(fed.insert(queue.to_owned())),
            (None, Some(name)) => {
                broadcast.extend(
                    OPERATIONS
                        .iter()
                        .map(|operation| format!("{name}.{operation}")),
                );
            }
            (None, None) => {}
        }
    }

    if !broadcast.is_empty() {
        let statement = "SELECT r FROM unnest($1::text[]) AS t(event_type),
                                       ezq.recipients(t.event_type) AS r";
        let subscribed = sqlx::query_scalar::<_, String>(statement).bind(broadcast);
        fed.extend(subscribed.fetch_all(connection).await?);
    }

    fed.retain(|queue| mine.contains(queue));
    Ok(fed.into_iter().collect())
}

/// Polls once. Returns the queues in which something may have been committed.
pub(crate) async fn poll(
    connection: &mut PgConnection,
    poll: &mut CapturePoll,
) -> Result<Vec<QueueName>, sqlx::Error> {
    let query = sqlx::query_as(LOOK).bind(poll.ids());
    let (snapshot, last): (String, Vec<Option<i64>>) = query.fetch_one(connection).await?;
    let snapshot: Snapshot = snapshot
        .parse()
        .map_err(|why: &str| sqlx::Error::Decode(why.into()))?;
    Ok(poll.poll(snapshot, &last))
}
