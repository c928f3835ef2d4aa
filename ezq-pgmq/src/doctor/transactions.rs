//! Transactions that stand in the way of others, and how far numbers are from their end.

use ezq_core::engine::{Finding, Severity};
use sqlx::postgres::PgConnection;

use super::found::{Found, span};
use super::session::Facts;
use crate::sql::archive::LIFE;
use crate::sql::units::micros;
use crate::sql::{identifier, quoted};

/// Open transactions of this database, oldest first. Of other roles, a role without the right sees no
/// times.
const OPEN: &str = "
    SELECT s.pid, s.backend_start::text, coalesce(s.usename::text, ''), s.application_name,
           coalesce(s.state, ''), floor(extract(epoch FROM clock_timestamp() - s.xact_start))::bigint,
           s.backend_xid IS NOT NULL OR s.backend_xmin IS NOT NULL
    FROM pg_catalog.pg_stat_activity s
    WHERE s.datname = current_database() AND s.pid <> pg_backend_pid()
      AND s.backend_type = 'client backend'
      AND s.xact_start < clock_timestamp() - $1 * interval '1 us'
    ORDER BY s.xact_start LIMIT 20";

const HIDDEN: &str = "
    SELECT count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND query = '<insufficient privilege>'";

/// Replication slots that hold rows for a reader that is not there.
const SLOTS: &str = "
    SELECT slot_name::text, greatest(age(xmin), age(catalog_xmin))::bigint
    FROM pg_catalog.pg_replication_slots
    WHERE NOT active AND greatest(age(xmin), age(catalog_xmin)) > $1 ORDER BY 1";

const PREPARED: &str = "
    SELECT gid::text, owner::text, floor(extract(epoch FROM clock_timestamp() - prepared))::bigint
    FROM pg_catalog.pg_prepared_xacts
    WHERE database = current_database() AND prepared < clock_timestamp() - $1 * interval '1 us'
    ORDER BY prepared LIMIT 20";

/// Transactions are numbered with 31 bits, relative to the oldest. The server refuses writes shortly
/// before the end.
const XIDS: i64 = 1 << 31;

type OpenRow = (i32, String, String, String, String, i64, bool);

pub(super) async fn open(connection: &mut PgConnection, facts: &Facts) -> Found {
    let rows: Vec<OpenRow> = sqlx::query_as(OPEN)
        .bind(micros(facts.options.old_after))
        .fetch_all(&mut *connection)
        .await?;
    let mut findings: Vec<Finding> = rows.into_iter().map(of_open).collect();

    let hidden: i64 = sqlx::query_scalar(HIDDEN)
        .fetch_one(&mut *connection)
        .await?;
    if hidden > 0 {
        let text = format!(
            "the role `{}` may not see what {hidden} sessions of other roles do",
            facts.role
        );
        let finding = Finding::new(Severity::Notice, "transactions", text);
        let sql = format!("grant pg_read_all_stats to {};", quoted(&facts.role));
        findings.push(finding.remedy(sql));
    }
    findings.extend(slots(connection, facts.options.slot_lag).await?);

    if findings.is_empty() {
        let age = facts.options.old_after;
        let text = format!("no transaction is open for longer than {age:?}");
        findings.push(Finding::new(Severity::Ok, "transactions", text));
    }
    Ok(findings)
}

fn of_open(row: OpenRow) -> Finding {
    let (pid, began, role, application, state, age, has_snapshot) = row;
    // One that holds neither rows nor a snapshot keeps only its locks.
    let severity = match has_snapshot {
        true => Severity::Warning,
        false => Severity::Notice,
    };
    let holds = match has_snapshot {
        true => "vacuum keeps every row that was deleted since",
        false => "it holds its locks",
    };
    let text = format!(
        "a transaction of `{role}` (application `{application}`, {state}) is open for {}: {holds}",
        span(age)
    );
    // A process id may have become another session's by then.
    let sql = format!(
        "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity\n\
         where pid = {pid} and backend_start = '{began}';"
    );
    Finding::new(severity, "transactions", text)
        .about(format!("the session {pid}"))
        .remedy(sql)
        .advice("the SQL ends the session and rolls its transaction back")
}

async fn slots(connection: &mut PgConnection, lag: u32) -> Result<Vec<Finding>, sqlx::Error> {
    let slots = sqlx::query_as(SLOTS).bind(i64::from(lag));
    let rows: Vec<(String, i64)> = slots.fetch_all(connection).await?;
    let findings = rows.into_iter().map(|(slot, age)| {
        let text = format!("nobody reads it, and it holds the rows of {age} transactions");
        Finding::new(Severity::Warning, "transactions", text)
            .about(format!("the replication slot `{slot}`"))
            .advice("start its reader, or drop it with pg_drop_replication_slot if that is gone for good")
    });
    Ok(findings.collect())
}

pub(super) async fn prepared(connection: &mut PgConnection, facts: &Facts) -> Found {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(PREPARED)
        .bind(micros(facts.options.old_after))
        .fetch_all(connection)
        .await?;
    let findings: Vec<Finding> = rows.into_iter().map(of_prepared).collect();
    if findings.is_empty() {
        let text = format!(
            "no transaction is prepared for longer than {:?}",
            facts.options.old_after
        );
        return Ok(vec![Finding::new(Severity::Ok, "prepared", text)]);
    }
    Ok(findings)
}

fn of_prepared((gid, owner, age): (String, String, i64)) -> Finding {
    let text = format!(
        "`{owner}` prepared it {} ago: it holds its locks, and vacuum keeps every row that was \
         deleted since",
        span(age)
    );
    let sql = format!("rollback prepared '{}';", gid.replace('\'', "''"));
    Finding::new(Severity::Warning, "prepared", text)
        .about(format!("the prepared transaction `{gid}`"))
        .remedy(sql)
        .advice("ask its coordinator first: if that has committed elsewhere, `commit prepared` is right")
}

pub(super) async fn wraparound(connection: &mut PgConnection, facts: &Facts) -> Found {
    let (xids, multixacts): (i64, i64) = sqlx::query_as(
        "SELECT age(datfrozenxid)::bigint, mxid_age(datminmxid)::bigint
         FROM pg_catalog.pg_database WHERE datname = current_database()",
    )
    .fetch_one(&mut *connection)
    .await?;
    let used_ids = facts.options.used_ids_percent;
    let mut findings = vec![of_xids(xids.max(multixacts), used_ids)];

    let sequences: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT sequencename::text, last_value, max_value FROM pg_catalog.pg_sequences
         WHERE schemaname = 'pgmq' AND last_value IS NOT NULL
           AND last_value > least(max_value, $1) / 2 ORDER BY 1",
    )
    .bind(LIFE)
    .fetch_all(connection)
    .await?;
    findings.extend(sequences.into_iter().map(of_sequence));
    Ok(findings)
}

fn of_xids(age: i64, notable: u8) -> Finding {
    let percent = age.saturating_mul(100) / XIDS;
    let severity = match percent {
        75.. => Severity::Error,
        _ if percent >= i64::from(notable) => Severity::Warning,
        _ => Severity::Ok,
    };
    let text =
        format!("{percent} % of the transaction ids are used since the oldest row was frozen");
    let finding = Finding::new(severity, "wraparound", text);
    match severity {
        Severity::Ok => finding,
        _ => finding.remedy("vacuum (freeze);").advice(
            "at the end the server takes no writes. What keeps vacuum from freezing is found by the \
             checks `transactions` and `prepared`; end that first",
        ),
    }
}

/// A sequence of message numbers beyond its half. ezq needs the numbers of a queue to be below
/// [`LIFE`].
fn of_sequence((name, last, max): (String, i64, i64)) -> Finding {
    let end = max.min(LIFE);
    let severity = match last > end / 10 * 9 {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let text = format!("number {last} of {end} was drawn");
    let finding =
        Finding::new(severity, "wraparound", text).about(format!("the sequence `pgmq.{name}`"));
    match max < LIFE {
        true => finding.remedy(format!(
            "alter sequence pgmq.{} as bigint maxvalue {};",
            identifier(&name),
            i64::MAX
        )),
        false => finding.advice(
            "move consumers and publishers to a new queue: numbers beyond the end are not told apart \
             from those of an archive",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_are_a_warning_from_the_half_on() {
        for (age, severity) in [
            (200_000_000, Severity::Ok),
            (1_100_000_000, Severity::Warning),
            (1_900_000_000, Severity::Error),
        ] {
            let found = of_xids(age, 50);
            assert_eq!(found.severity, severity, "{found}");
            assert_eq!(found.remedy.is_some(), severity > Severity::Ok);
        }
    }
}
