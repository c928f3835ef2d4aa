//! What is between this process and the server: a pooler, notifications, the clocks.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use ezq_core::engine::{Finding, Severity};
use sqlx::postgres::{PgConnection, PgListener, PgPoolOptions};
use tokio::time::timeout;

use super::found::Found;
use super::session::Facts;
use crate::connection::pooler::Sharing;

/// How long the notification to oneself may take. Less than a check has.
const HEARING: Duration = Duration::from_millis(1500);
/// From which difference on times of two machines confuse people, and delays by an exact time.
const NOTABLE_SKEW: f64 = 1.0;
const LARGE_SKEW: f64 = 60.0;

/// A pooler shares sessions.
pub(super) fn shared() -> Finding {
    let text = "two connections were given one session: a pooler shares sessions between transactions. \
                Nothing else was checked";
    Finding::new(Severity::Error, "pooler", text).advice(
        "let EZQ_DATABASE_URL lead to the server itself, or set `pool_mode = session` in the pooler",
    )
}

pub(super) async fn pooler(_connection: &mut PgConnection, facts: &Facts) -> Found {
    let name = "pooler";
    let finding = match &facts.sharing {
        Ok(Sharing::None) => Finding::new(
            Severity::Ok,
            name,
            "each connection keeps its session between transactions",
        ),
        Ok(Sharing::Transactions) => shared(),
        Ok(Sharing::Unknown) => Finding::new(
            Severity::Notice,
            name,
            "no second connection could be opened, so a pooler would not be noticed",
        ),
        Err(failure) => {
            let text = format!("this could not be checked: {failure}");
            Finding::new(Severity::Warning, name, text)
        }
    };
    Ok(vec![finding])
}

/// Notifies a session of its own, on a channel that nobody else uses.
pub(super) async fn listen(connection: &mut PgConnection, facts: &Facts) -> Found {
    let name = "listen";
    if facts.is_standby {
        let text = "a standby cannot notify, so this was not tried";
        return Ok(vec![Finding::new(Severity::Notice, name, text)]);
    }

    let asked = Instant::now();
    let finding = match timeout(HEARING, hear(connection, facts)).await {
        Ok(Ok(())) => {
            let text = format!(
                "a notification was heard after {:.1} ms",
                asked.elapsed().as_secs_f64() * 1000.0
            );
            Finding::new(Severity::Ok, name, text)
        }
        Ok(Err(failure)) => deaf(&format!("listening failed: {failure}")),
        Err(_) => deaf(&format!("a notification was not heard within {HEARING:?}")),
    };
    let mut findings = vec![finding];
    findings.extend(backlog(connection, facts).await?);
    Ok(findings)
}

fn deaf(evidence: &str) -> Finding {
    Finding::new(Severity::Warning, "listen", evidence)
        .advice("consumers find events by polling, later than by notification: look for a pooler")
}

async fn hear(connection: &mut PgConnection, facts: &Facts) -> Result<(), sqlx::Error> {
    // A listener needs a pool of its own.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(HEARING)
        .connect_lazy_with(facts.connector.options());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    let channel = format!("ezq_doctor_{:016x}", rand::random::<u64>());
    listener.listen(&channel).await?;

    sqlx::query("SELECT pg_catalog.pg_notify($1, '')")
        .bind(&channel)
        .execute(connection)
        .await?;
    match listener.try_recv().await? {
        Some(_) => Ok(()),
        None => Err(sqlx::Error::PoolClosed),
    }
}

/// Notifications wait for the slowest listener of the server. When their memory is full, publishing
/// fails.
async fn backlog(
    connection: &mut PgConnection,
    facts: &Facts,
) -> Result<Option<Finding>, sqlx::Error> {
    let usage: f64 = sqlx::query_scalar("SELECT pg_catalog.pg_notification_queue_usage()")
        .fetch_one(connection)
        .await?;
    let notable = f64::from(facts.options.used_notifications_permille) / 1000.0;
    let severity = match usage {
        0.5.. => Severity::Error,
        _ if usage >= notable => Severity::Warning,
        _ => return Ok(None),
    };
    let text = format!(
        "{:.1} % of the memory for notifications are used",
        usage * 100.0
    );
    Ok(Some(Finding::new(severity, "listen", text).advice(
        "a session listens and stays in one transaction: the check `transactions` names it",
    )))
}

pub(super) async fn clock(connection: &mut PgConnection) -> Found {
    let asked = Instant::now();
    let before = Utc::now();
    let server: DateTime<Utc> = sqlx::query_scalar("SELECT pg_catalog.clock_timestamp()")
        .fetch_one(connection)
        .await?;
    let round_trip = asked.elapsed().as_secs_f64();

    // The server read its clock at some time of the round trip: in its middle, give or take a half.
    let difference = server.signed_duration_since(before).as_seconds_f64() - round_trip / 2.0;
    Ok(vec![skew(difference, round_trip / 2.0)])
}

fn skew(difference: f64, uncertainty: f64) -> Finding {
    let certain = (difference.abs() - uncertainty).max(0.0);
    let severity = match certain {
        ..NOTABLE_SKEW => Severity::Ok,
        ..LARGE_SKEW => Severity::Notice,
        _ => Severity::Warning,
    };
    let direction = if difference < 0.0 {
        "behind"
    } else {
        "ahead of"
    };
    let text = format!(
        "the clock of the server is {:.3} s {direction} this machine's, give or take {uncertainty:.3} s",
        difference.abs()
    );
    let finding = Finding::new(severity, "clock", text);
    match severity {
        Severity::Ok => finding,
        _ => finding.advice(
            "what is due is decided by the server's clock: an exact time that this machine gives is \
             early or late by as much. Let both take their time from one source (NTP)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_counts_only_beyond_the_uncertainty_of_the_measurement() {
        for (difference, uncertainty, severity) in [
            (0.2, 0.001, Severity::Ok),
            (-3.0, 2.5, Severity::Ok),
            (-3.0, 0.1, Severity::Notice),
            (61.0, 0.1, Severity::Warning),
        ] {
            assert_eq!(skew(difference, uncertainty).severity, severity);
        }
        assert!(skew(-3.0, 0.1).evidence.contains("3.000 s behind"));
    }
}
