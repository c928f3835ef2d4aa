//! The table of holders: one row for each engine that leases, with its sign, its longest lease, and since
//! when no session holds the sign.

use std::time::Duration;

use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::GRACE;
use crate::connection::sign::{CLASS, hold};
use crate::sql;
use crate::sql::leases::{Sign, is_delivered, sign_of};
use crate::sql::units::micros;

/// How many messages one statement makes due.
const STEP: i64 = 1000;

/// Tries to give a sign to this engine. The session holds it from now on.
pub(super) async fn enter(
    session: &mut PgConnection,
    sign: Sign,
    lease: Duration,
) -> Result<bool, sqlx::Error> {
    // Before the row is there: nobody may find the sign without a session.
    hold(session, sign).await?;
    let is_ours = renew(session, sign, lease).await?;

    if !is_ours {
        let release = "SELECT pg_catalog.pg_advisory_unlock_shared($1, $2)";
        let query = sqlx::query(release).bind(CLASS).bind(sign.number());
        query.execute(session).await?;
    }
    Ok(is_ours)
}

/// Makes the row of a sign, unless there is one.
pub(super) async fn renew(
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

/// The engine closes: what it still holds may be taken over as soon as its sessions have ended.
pub(crate) async fn leave(connection: &mut PgConnection, sign: Sign) -> Result<(), sqlx::Error> {
    let statement = "UPDATE ezq.holders SET missed_at = clock_timestamp() - $2 * interval '1 us'
                     WHERE sign = $1";
    let query = sqlx::query(statement)
        .bind(sign.number())
        .bind(micros(GRACE));
    query.execute(connection).await?;
    Ok(())
}

/// What a look at the table found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The engine has its row.
    pub(super) is_entered: bool,
    /// The other signs that no session holds, and for how long that is known.
    pub(super) missing: Vec<(Sign, Duration)>,
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
    let statement = "
        WITH present AS (
          UPDATE ezq.holders
          SET missed_at = NULL, lease = greatest(lease, $2 * interval '1 us')
          WHERE sign = $1 AND (missed_at IS NOT NULL OR lease < $2 * interval '1 us')),
        missing AS MATERIALIZED (
          SELECT h.sign, h.missed_at, h.lease FROM ezq.holders h
          WHERE h.sign <> $1 AND pg_try_advisory_xact_lock($3, h.sign)),
        noted AS (
          UPDATE ezq.holders h SET missed_at = clock_timestamp()
          FROM missing m WHERE h.sign = m.sign AND m.missed_at IS NULL),
        forgotten AS (
          DELETE FROM ezq.holders h USING missing m
          WHERE h.sign = m.sign AND m.missed_at < clock_timestamp() - m.lease - interval '1 minute')
        SELECT h.sign, NULL::bigint AS missed_us FROM ezq.holders h WHERE h.sign = $1
        UNION ALL
        SELECT m.sign, coalesce(1000000 * extract(epoch FROM clock_timestamp() - m.missed_at), 0)::bigint
        FROM missing m";
    let query = sqlx::query(statement)
        .bind(own.number())
        .bind(micros(lease))
        .bind(CLASS);
    let rows = query.fetch_all(connection).await?;

    let mut look = Look::default();
    for row in rows {
        let sign = Sign::new(row.try_get("sign")?);
        match (sign, row.try_get::<Option<i64>, _>("missed_us")?) {
            (Some(sign), Some(us)) => {
                let missed_for = Duration::from_micros(u64::try_from(us).unwrap_or(0));
                look.missing.push((sign, missed_for));
            }
            (_, None) => look.is_entered = true,
            // Another client wrote a number that is no sign.
            (None, Some(_)) => {}
        }
    }
    Ok(look)
}

/// What one statement took over.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) count: u64,
    /// Nothing of those holders is left in the queue.
    pub(super) is_all: bool,
}

/// Makes the next messages due that gone holders have leased. Those that are locked at the moment are left.
/// All of one statement get one due time, so that they are claimed in their order.
pub(super) async fn take_over(
    connection: &mut PgConnection,
    queue: &QueueName,
    gone: &[Sign],
) -> Result<Taken, sqlx::Error> {
    let table = sql::table(queue);
    let sign = sign_of("q");
    let is_delivered = is_delivered("q");
    // Between look and lock a row may have been settled, or put back.
    let is_theirs = format!(
        "q.vt > statement_timestamp() AND {is_delivered} AND {sign} = ANY (ARRAY(SELECT g.sign FROM gone g))"
    );
    let statement = format!(
        "WITH gone AS MATERIALIZED (
           SELECT h.sign, h.lease FROM ezq.holders h
           WHERE h.sign = ANY ($1) AND h.missed_at <= clock_timestamp() - $2 * interval '1 us'
             AND pg_try_advisory_xact_lock($3, h.sign)),
         found AS MATERIALIZED (
           SELECT q.msg_id FROM {table} q
           WHERE {is_theirs}
             AND q.vt <= statement_timestamp() + (SELECT max(g.lease) FROM gone g) + interval '1 s'
           ORDER BY q.vt LIMIT {STEP}),
         locked AS (
           SELECT q.msg_id FROM {table} q
           WHERE q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM found f)) AND {is_theirs}
           ORDER BY q.msg_id FOR UPDATE SKIP LOCKED),
         taken AS (
           UPDATE {table} q SET vt = statement_timestamp() FROM locked l
           WHERE q.msg_id = l.msg_id AND q.msg_id = ANY (ARRAY(SELECT f.msg_id FROM found f))
           RETURNING q.msg_id)
         SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM found) AS found,
                (SELECT count(*) FROM taken) AS taken"
    );

    let numbers: Vec<i32> = gone.iter().map(|sign| sign.number()).collect();
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(numbers)
        .bind(micros(GRACE))
        .bind(CLASS);
    let row = query.fetch_one(connection).await?;
    let [gone_now, found, taken] =
        ["gone", "found", "taken"].map(|name| row.try_get::<i64, _>(name));
    let (gone_now, found, taken) = (gone_now?, found?, taken?);

    Ok(Taken {
        count: u64::try_from(taken).unwrap_or(0),
        is_all: usize::try_from(gone_now) == Ok(gone.len()) && found == taken && found < STEP,
    })
}
