//! The list of queues, and what each holds, counted up to a limit: by indexes from their ends, and never
//! by reading a whole table.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ezq_core::engine::{Count, QueueCounts, QueueTotals};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::QueryScalar;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use crate::sql;

/// The tables of queues. The catalogue shows them to any role; `pgmq.meta` needs a grant. A part of a
/// partitioned queue is no queue.
const TABLES: &str = "
    SELECT substr(c.relname::text, 3)
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = to_regnamespace('pgmq') AND c.relkind IN ('r', 'p')
      AND starts_with(c.relname::text, 'q_') AND NOT c.relispartition
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)";

/// The names of all queues, sorted, without those of dead letters.
pub(crate) async fn queues(connection: &mut PgConnection) -> Result<Vec<QueueName>, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(connection).await?;
    // Another client may have made a queue whose name ezq does not take.
    let mut queues: Vec<QueueName> = names
        .iter()
        .filter_map(|name| {
            QueueName::new(name)
                .ok()
                .filter(|queue| queue.as_str() == name)
        })
        .collect();
    let dead: HashSet<String> = queues.iter().map(QueueName::dead_letters).collect();
    queues.retain(|queue| !dead.contains(queue.as_str()));
    queues.sort();
    Ok(queues)
}

/// A queue that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Existing {
    pub(crate) has_dead: bool,
    /// Whether the role may not change or remove its messages.
    pub(crate) is_read_only: bool,
}

/// Which of these queues exist.
pub(crate) async fn existing(
    connection: &mut PgConnection,
    queues: &[QueueName],
) -> Result<HashMap<String, Existing>, sqlx::Error> {
    let statement = "
        SELECT w.name, to_regclass('pgmq.' || quote_ident('q_' || w.dead)) IS NOT NULL,
               NOT (has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE'))
        FROM unnest($1::text[], $2::text[]) AS w(name, dead),
             LATERAL (SELECT to_regclass('pgmq.' || quote_ident('q_' || w.name))::oid AS oid) t
        WHERE t.oid IS NOT NULL";
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let dead: Vec<String> = queues.iter().map(QueueName::dead_letters).collect();
    let found: Vec<(String, bool, bool)> = sqlx::query_as(statement)
        .bind(names)
        .bind(dead)
        .fetch_all(connection)
        .await?;
    let existing = found.into_iter().map(|(name, has_dead, is_read_only)| {
        let existing = Existing {
            has_dead,
            is_read_only,
        };
        (name, existing)
    });
    Ok(existing.collect())
}

/// The tables of queues that nobody can read, since a session has locked them or waits to.
pub(crate) async fn locked(connection: &mut PgConnection) -> Result<HashSet<String>, sqlx::Error> {
    let statement = "
        SELECT c.relname::text FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_class c ON c.oid = l.relation
        WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
          AND c.relnamespace = to_regnamespace('pgmq')
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                            WHERE d.datname = current_database())";
    let names: Vec<String> = sqlx::query_scalar(statement).fetch_all(connection).await?;
    Ok(names.into_iter().collect())
}

/// Counts what a queue holds.
pub(crate) async fn counts(
    connection: &mut PgConnection,
    queue: &QueueName,
    has_dead: bool,
    cap: u64,
) -> Result<QueueCounts, sqlx::Error> {
    let statement = statement(queue, has_dead);
    let limit = i64::try_from(cap.saturating_add(1)).unwrap_or(i64::MAX);
    // A cached plan may date from when the table was empty: this one is made for each call.
    let row = sqlx::query(AssertSqlSafe(statement))
        .persistent(false)
        .bind(limit)
        .fetch_one(connection)
        .await?;
    read(&row, cap)
}

/// For how long the oldest snapshot or prepared transaction of this database has been held. Vacuum
/// ignores the snapshots of its own workers.
///
/// The server shows a role without `pg_monitor` its own sessions only.
pub(crate) async fn oldest_snapshot(
    connection: &mut PgConnection,
) -> Result<Option<Duration>, sqlx::Error> {
    let statement = "
        SELECT floor(1000000 * extract(epoch FROM clock_timestamp() - min(held.since)))::bigint
        FROM (SELECT a.xact_start AS since FROM pg_catalog.pg_stat_activity a
              WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL
                AND a.pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
              UNION ALL
              SELECT x.prepared FROM pg_catalog.pg_prepared_xacts x
              WHERE x.database = current_database()) held";
    let held: Option<i64> = sqlx::query_scalar(statement).fetch_one(connection).await?;
    Ok(held.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))))
}

/// The key of the advisory lock of the session that samples: `ezq` and a number, as bytes.
const SEAT: i64 = 0x65_7a_71_06;

/// Takes the lock of the session that samples. Answers false if another session has it.
pub(crate) fn take_seat() -> QueryScalar<'static, Postgres, bool, PgArguments> {
    sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1)").bind(SEAT)
}

/// Each number stops at the limit. What is due is read by the index on `vt` from its beginning, what is
/// not due from now on: leases end soon and come first, then retries, then what is scheduled. The
/// totals are the server's statistics on the table and its partitions.
fn statement(queue: &QueueName, has_dead: bool) -> String {
    let table = sql::table(queue);
    let tables = sql::tables_of(&table);
    let returned = sql::returned("l.headers");
    let dead = match has_dead {
        true => format!(
            "(SELECT count(*) FROM (SELECT FROM {} d ORDER BY d.msg_id LIMIT $1) d)",
            sql::dead_table(queue)
        ),
        false => "0::bigint".to_owned(),
    };
    let oldest = sql::bounded("o.vt");

    format!(
        "SELECT statement_timestamp() AS at,
                (SELECT count(*) FROM (
                   SELECT FROM {table} r WHERE r.vt <= statement_timestamp()
                   ORDER BY r.vt LIMIT $1) r) AS ready,
                (SELECT floor(1000000 * extract(epoch FROM statement_timestamp() - {oldest}))::bigint
                 FROM {table} o WHERE o.vt <= statement_timestamp()
                 ORDER BY o.vt LIMIT 1) AS oldest_us,
                {dead} AS dead, later.seen, later.leased, later.retrying, later.scheduled,
                parts.stored, parts.removed, parts.partitions
         FROM (SELECT sum(pg_stat_get_tuples_inserted(p.oid))::bigint AS stored,
                      sum(pg_stat_get_tuples_deleted(p.oid))::bigint AS removed,
                      greatest(count(*) - 1, 1) AS partitions
               FROM ({tables}) p) parts,
              (SELECT count(*) AS seen,
                      count(*) FILTER (WHERE l.read_ct = 0) AS scheduled,
                      count(*) FILTER (WHERE l.read_ct > 0 AND {returned} < l.read_ct) AS leased,
                      count(*) FILTER (WHERE l.read_ct > 0 AND {returned} >= l.read_ct) AS retrying
               FROM (SELECT l.read_ct, l.headers FROM {table} l
                     WHERE l.vt > statement_timestamp() ORDER BY l.vt LIMIT $1) l) later"
    )
}

fn read(row: &PgRow, cap: u64) -> Result<QueueCounts, sqlx::Error> {
    let number = |column: &str| -> Result<u64, sqlx::Error> {
        let number: Option<i64> = row.try_get(column)?;
        Ok(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
    };
    let is_capped = number("seen")? > cap;
    let later = |column: &str| -> Result<Count, sqlx::Error> {
        let mut count = Count::up_to(number(column)?, cap);
        count.is_capped = is_capped;
        Ok(count)
    };

    let oldest: Option<i64> = row.try_get("oldest_us")?;
    let mut counts = QueueCounts::new(row.try_get("at")?);
    counts.ready = Count::up_to(number("ready")?, cap);
    counts.leased = later("leased")?;
    counts.retrying = later("retrying")?;
    counts.scheduled = later("scheduled")?;
    counts.dead = Count::up_to(number("dead")?, cap);
    counts.oldest_ready = oldest.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0)));
    counts.partitions = u32::try_from(number("partitions")?).unwrap_or(1);
    counts.totals = Some(QueueTotals::new(number("stored")?, number("removed")?));
    Ok(counts)
}
