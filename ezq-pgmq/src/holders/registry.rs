//! The table of holders: one row for each engine that leases, with its sign, its longest lease, and since
//! when no session holds the sign.
//!
//! No statement here waits for a standby before it commits: whoever examines a sign holds it alone until
//! then, and what a crash undoes is done again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::GRACE;
use crate::connection::sign::CLASS;
use crate::sql;
use crate::sql::leases::{Sign, is_delivered, sign_of};
use crate::sql::units::micros;

/// How many messages one statement makes due.
const STEP: i64 = 1000;
/// How many holders one look examines. Each takes a lock, and the server has room for several thousand.
const MOST: i64 = 1000;
/// Commits without waiting for a standby.
const AT_ONCE: &str = "pg_catalog.set_config('synchronous_commit', 'off', true)";

/// Makes the row of a sign, unless it belongs to somebody.
pub(super) async fn enter(
    connection: &mut PgConnection,
    sign: Sign,
    lease: Duration,
) -> Result<bool, sqlx::Error> {
    let statement = "INSERT INTO ezq.holders (sign, lease) VALUES ($1, $2 * interval '1 us')
                     ON CONFLICT (sign) DO NOTHING";
    let query = sqlx::query(statement)
        .bind(sign.number())
        .bind(micros(lease));
    Ok(query.execute(connection).await?.rows_affected() == 1)
}

/// A holder whose sign no session holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) sign: Sign,
    /// When that was first noticed.
    pub(super) since: DateTime<Utc>,
    /// For how long that is known.
    pub(super) known_for: Duration,
    /// Its longest lease.
    pub(super) lease: Duration,
}

/// What a look at the table found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The process id of the session that looked.
    pub(super) session: i32,
    /// The engine has its row.
    pub(super) is_entered: bool,
    pub(super) missing: Vec<Missing>,
}

/// Looks for signs that no session holds. Notes when one is first missing, and removes those of which no
/// lease can be left. The engine itself is noted as present.
///
/// Whoever examines a sign tries to hold it alone until the statement ends. Of two that examine it at
/// once, one takes it for held, and sees it the next time.
pub(super) async fn look(
    connection: &mut PgConnection,
    own: Sign,
    lease: Duration,
) -> Result<Look, sqlx::Error> {
    let statement = format!(
        "WITH present AS (
           UPDATE ezq.holders
           SET missed_at = NULL, lease = greatest(lease, $2 * interval '1 us')
           WHERE sign = $1 AND (missed_at IS NOT NULL OR lease < $2 * interval '1 us')),
         missing AS MATERIALIZED (
           SELECT h.sign, coalesce(h.missed_at, statement_timestamp()) AS since, h.missed_at, h.lease
           FROM (SELECT * FROM ezq.holders WHERE sign <> $1 LIMIT {MOST}) h
           WHERE pg_try_advisory_xact_lock($3, h.sign)),
         noted AS (
           UPDATE ezq.holders h SET missed_at = m.since
           FROM missing m WHERE h.sign = m.sign AND m.missed_at IS NULL),
         forgotten AS (
           DELETE FROM ezq.holders h USING missing m
           WHERE h.sign = m.sign AND m.missed_at < statement_timestamp() - m.lease - interval '1 minute')
         SELECT pg_backend_pid() AS session, {AT_ONCE} AS commits,
                EXISTS (SELECT FROM ezq.holders h WHERE h.sign = $1) AS is_entered,
                m.sign, m.since,
                (1000000 * extract(epoch FROM statement_timestamp() - m.since))::bigint AS known_us,
                (1000000 * extract(epoch FROM m.lease))::bigint AS lease_us
         FROM (SELECT) AS one LEFT JOIN missing m ON true"
    );
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(own.number())
        .bind(micros(lease))
        .bind(CLASS);
    let rows = query.fetch_all(connection).await?;

    let mut look = Look::default();
    for row in rows {
        look.session = row.try_get("session")?;
        look.is_entered = row.try_get("is_entered")?;
        let number: Option<i32> = row.try_get("sign")?;
        // Another client may write a number that is no sign.
        let Some(sign) = number.and_then(Sign::new) else {
            continue;
        };

        let duration = |us: i64| Duration::from_micros(u64::try_from(us).unwrap_or(0));
        look.missing.push(Missing {
            sign,
            since: row.try_get("since")?,
            known_for: duration(row.try_get("known_us")?),
            lease: duration(row.try_get("lease_us")?),
        });
    }
    Ok(look)
}

/// What one statement took over.
#[derive(Debug)]
pub(super) struct Taken {
    /// How many messages it made due.
    pub(super) count: i64,
    /// How many it left, which are locked.
    pub(super) locked: i64,
    /// There may be more.
    pub(super) has_more: bool,
}

/// Makes the next messages due that a gone holder has leased, behind so many that are locked. All of one
/// statement get one due time, so that they are claimed in their order.
///
/// A holder that has come back loses nothing: then the statement finds nothing.
pub(super) async fn take_over(
    connection: &mut PgConnection,
    queue: &QueueName,
    gone: Missing,
    locked: i64,
) -> Result<Taken, sqlx::Error> {
    let table = sql::table(queue);
    // Between the search and the lock a row may have been settled, or put back.
    let is_theirs = format!(
        "q.vt > statement_timestamp() AND {} AND {} = (SELECT g.sign FROM gone g)",
        is_delivered("q"),
        sign_of("q")
    );
    let statement = format!(
        "WITH gone AS MATERIALIZED (
           SELECT h.sign, h.lease FROM ezq.holders h
           WHERE h.sign = $1 AND h.missed_at <= clock_timestamp() - $2 * interval '1 us'
             AND pg_try_advisory_xact_lock($3, h.sign)),
         found AS MATERIALIZED (
           SELECT q.msg_id FROM {table} q
           WHERE {is_theirs}
             AND q.vt <= statement_timestamp() + (SELECT g.lease FROM gone g) + interval '1 s'
           ORDER BY q.vt LIMIT {STEP} OFFSET $4),
         free AS MATERIALIZED (
           SELECT q.msg_id FROM {table} q
           WHERE q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM found f)) AND {is_theirs}
           ORDER BY q.msg_id FOR UPDATE SKIP LOCKED),
         taken AS (
           UPDATE {table} q SET vt = statement_timestamp()
           WHERE q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM free f)) RETURNING q.msg_id)
         SELECT (SELECT count(*) FROM found) AS found, (SELECT count(*) FROM taken) AS taken,
                {AT_ONCE} AS commits"
    );

    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(gone.sign.number())
        .bind(micros(GRACE))
        .bind(CLASS)
        .bind(locked);
    let row = query.fetch_one(connection).await?;
    let found: i64 = row.try_get("found")?;
    let taken: i64 = row.try_get("taken")?;
    Ok(Taken {
        count: taken,
        locked: found - taken,
        has_more: found == STEP,
    })
}
