//! What happens in the queues: who consumes them, what dies, what copies and schedules wait for.

use ezq_core::engine::{Finding, SeenConsumer, Severity};
use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::found::{Found, counted, span};
use super::session::{Facts, Sight, sight};
use crate::admin::{overview, presence};
use crate::error::{self, missing};
use crate::sql::{dead_table, quoted};

/// A consumer that has given no sign of life for so long is gone, as `ezq_core::admin::GONE_AFTER`.
const GONE_AFTER: u64 = 30;
/// Where counts stop.
const CAP: u64 = 10_000;
/// How many of the newest dead letters are looked at.
const LOOKED_AT: u32 = 1000;

/// Queues that nobody consumes, as far as consumers tell.
pub(super) async fn consumers(connection: &mut PgConnection, facts: &Facts) -> Found {
    let name = "consumers";
    let seen = match sight(&mut *connection, "ezq", "consumers").await? {
        Sight::Readable => presence::list(&mut *connection).await?,
        Sight::Hidden => return Ok(vec![hidden(name, "consumers", facts)]),
        Sight::Absent => Vec::new(),
    };

    let mut findings = Vec::new();
    for queue in &facts.queues {
        let own: Vec<&SeenConsumer> = seen
            .iter()
            .filter(|one| one.consumer.queue == *queue)
            .collect();
        if own.iter().any(|one| one.seen_ago.as_secs() < GONE_AFTER) {
            continue;
        }
        let newest = own.iter().map(|one| one.seen_ago.as_secs()).min();
        findings.push(unconsumed(connection, queue, newest).await?);
    }

    if findings.is_empty() {
        let text = format!(
            "{} with a consumer each",
            counted(facts.queues.len(), "queue")
        );
        findings.push(Finding::new(Severity::Ok, name, text));
    }
    Ok(findings)
}

async fn unconsumed(
    connection: &mut PgConnection,
    queue: &QueueName,
    newest: Option<u64>,
) -> Result<Finding, sqlx::Error> {
    let last = match newest {
        Some(ago) => format!(
            "the last one was seen {} ago",
            span(i64::try_from(ago).unwrap_or(i64::MAX))
        ),
        None => "none was seen since yesterday".to_owned(),
    };
    let waiting = match waiting(connection, queue).await {
        Err(failure) if is_passing(&failure) => return Ok(unreadable("consumers", queue)),
        waiting => waiting?,
    };
    let (severity, waiting) = match waiting {
        Some((0, _)) => (Severity::Notice, "nothing waits".to_owned()),
        Some((ready, oldest)) => (
            Severity::Warning,
            format!(
                "events that are due: {ready}, the oldest for {}",
                span(oldest)
            ),
        ),
        None => (
            Severity::Notice,
            "the role may not read the queue".to_owned(),
        ),
    };
    let text = format!("nobody consumes it: {last}; {waiting}");
    let finding = Finding::new(severity, "consumers", text).about_queue(queue);
    Ok(finding.advice(
        "start a process that consumes it. One with EZQ_PRESENCE=false, or another client of PGMQ, does \
         not tell",
    ))
}

/// Whether a queue cannot be read for now: a session has locked it, or has dropped it in the middle.
fn is_passing(failure: &sqlx::Error) -> bool {
    error::is_locked(failure) || missing::of_pgmq(failure).is_some()
}

fn unreadable(check: &'static str, queue: &QueueName) -> Finding {
    let text = "it could not be read: another session has locked it, or is dropping it";
    Finding::new(Severity::Warning, check, text).about_queue(queue)
}

/// How many events are due, and for how many seconds the oldest is; `None` if the role may not read that.
async fn waiting(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Option<(u64, i64)>, sqlx::Error> {
    if sight(&mut *connection, "pgmq", &format!("q_{queue}")).await? != Sight::Readable {
        return Ok(None);
    }
    let counts = overview::counts(connection, queue, false, CAP).await?;
    let oldest = counts.oldest_ready.unwrap_or_default().as_secs();
    let oldest = i64::try_from(oldest).unwrap_or(i64::MAX);
    Ok(Some((counts.ready.value, oldest)))
}

/// Dead letters, those of the last hour apart, and types of events that nobody takes.
pub(super) async fn dead_letters(connection: &mut PgConnection, facts: &Facts) -> Found {
    let mut findings = Vec::new();
    let mut unread = 0_usize;
    for queue in &facts.queues {
        match sight(
            &mut *connection,
            "pgmq",
            &format!("q_{}", queue.dead_letters()),
        )
        .await?
        {
            Sight::Readable => match of_dead_letters(connection, queue).await {
                Err(failure) if is_passing(&failure) => {
                    findings.push(unreadable("dead-letters", queue));
                }
                found => findings.extend(found?),
            },
            Sight::Hidden => unread += 1,
            Sight::Absent => {}
        }
    }

    if unread > 0 {
        let text = format!(
            "the role may not read the dead letters of {}",
            counted(unread, "queue")
        );
        findings.push(Finding::new(Severity::Notice, "dead-letters", text));
    }
    if findings.is_empty() {
        let text = format!(
            "no dead letters in {}",
            counted(facts.queues.len(), "queue")
        );
        findings.push(Finding::new(Severity::Ok, "dead-letters", text));
    }
    Ok(findings)
}

async fn of_dead_letters(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Vec<Finding>, sqlx::Error> {
    let statement = format!(
        "SELECT count(*), count(*) FILTER (WHERE enqueued_at > clock_timestamp() - interval '1 h')
         FROM (SELECT enqueued_at FROM {} ORDER BY msg_id DESC LIMIT {CAP}) newest",
        dead_table(queue)
    );
    let (all, recent): (i64, i64) = sqlx::query_as(AssertSqlSafe(statement))
        .fetch_one(&mut *connection)
        .await?;
    if all == 0 {
        return Ok(Vec::new());
    }

    let severity = match recent {
        0 => Severity::Notice,
        _ => Severity::Warning,
    };
    let letters = match (all, all.unsigned_abs() >= CAP) {
        (1, _) => "1 dead letter".to_owned(),
        (_, false) => format!("{all} dead letters"),
        (_, true) => format!("{all} or more dead letters"),
    };
    let text = format!("{letters}, {recent} from the last hour");
    let letters = Finding::new(severity, "dead-letters", text)
        .about_queue(queue)
        .advice(format!(
            "`ezq dlq list {queue}` shows why they died, `ezq dlq redrive {queue} --all` tries them again"
        ));
    let mut findings = vec![letters];
    findings.extend(untaken(connection, queue).await?);
    Ok(findings)
}

/// Types of events that died since yesterday because no handler takes them.
async fn untaken(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<Option<Finding>, sqlx::Error> {
    let event_type = crate::sql::event_type("message", "headers");
    let statement = format!(
        "SELECT coalesce({event_type}, '?') AS type, count(*)
         FROM (SELECT message, headers, enqueued_at FROM {} ORDER BY msg_id DESC LIMIT {LOOKED_AT}) newest
         WHERE headers #>> '{{ezq-dead,reason,kind}}'::text[] = 'unknown_type'
           AND enqueued_at > clock_timestamp() - interval '1 day'
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5",
        dead_table(queue)
    );
    let types: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(statement))
        .fetch_all(connection)
        .await?;
    if types.is_empty() {
        return Ok(None);
    }

    let types = types
        .iter()
        .map(|(name, count)| format!("`{name}` ({count})"));
    let text = format!(
        "events died since yesterday because no handler takes their type: {}",
        Vec::from_iter(types).join(", ")
    );
    let finding = Finding::new(Severity::Error, "dead-letters", text).about_queue(queue);
    Ok(Some(finding.advice(
        "deploy a consumer that handles the type, then redrive them; or let the publisher name another \
         queue",
    )))
}

/// Subscriptions of queues that do not exist: their copies go nowhere.
const LOST: &str = "
    SELECT app, queue, array_agg(pattern::text ORDER BY pattern) FROM ezq.subscriptions
    WHERE to_regclass('pgmq.' || quote_ident('q_' || queue)) IS NULL
    GROUP BY app, queue ORDER BY queue, app";

pub(super) async fn subscriptions(connection: &mut PgConnection, facts: &Facts) -> Found {
    let name = "subscriptions";
    match sight(&mut *connection, "ezq", "subscriptions").await? {
        Sight::Readable => {}
        Sight::Hidden => return Ok(vec![hidden(name, "subscriptions", facts)]),
        Sight::Absent => {
            return Ok(vec![Finding::new(
                Severity::Ok,
                name,
                "nobody has subscribed",
            )]);
        }
    }

    let lost: Vec<(String, String, Vec<String>)> =
        sqlx::query_as(LOST).fetch_all(connection).await?;
    let findings: Vec<Finding> = lost
        .into_iter()
        .map(|(app, queue, patterns)| {
            let text = format!(
                "`{app}` subscribes it to {}, and it does not exist: its copies are not stored",
                patterns.join(", ")
            );
            let literal = |text: &str| text.replace('\'', "''");
            Finding::new(Severity::Error, name, text)
                .about(format!("the queue `{queue}`"))
                .remedy(format!(
                    "delete from ezq.subscriptions where app = '{}' and queue = '{}';",
                    literal(&app),
                    literal(&queue)
                ))
                .advice("the SQL removes the subscription; if it is still wanted, create the queue")
        })
        .collect();
    if findings.is_empty() {
        let text = "every subscribed queue exists";
        return Ok(vec![Finding::new(Severity::Ok, name, text)]);
    }
    Ok(findings)
}

/// Schedules with how late they are, and for how long no process has told that it has them.
const SCHEDULES: &str = "
    SELECT name::text, application, paused_at IS NOT NULL,
           floor(extract(epoch FROM clock_timestamp() - next_at))::bigint,
           floor(extract(epoch FROM clock_timestamp() - seen_at))::bigint
    FROM ezq.schedules ORDER BY name";
/// A tick may be this late, in seconds: processes look every half a minute.
const LATE: i64 = 90;
/// A process with the schedule tells that it has it more often than this, in seconds.
const UNSEEN: i64 = 180;

type ScheduleRow = (String, String, bool, i64, i64);

pub(super) async fn schedules(connection: &mut PgConnection, facts: &Facts) -> Found {
    let name = "schedules";
    match sight(&mut *connection, "ezq", "schedules").await? {
        Sight::Readable => {}
        Sight::Hidden => return Ok(vec![hidden(name, "schedules", facts)]),
        Sight::Absent => return Ok(vec![Finding::new(Severity::Ok, name, "no schedules")]),
    }

    let rows: Vec<ScheduleRow> = sqlx::query_as(SCHEDULES).fetch_all(connection).await?;
    let mut findings: Vec<Finding> = rows.iter().filter_map(of_schedule).collect();
    if findings.is_empty() {
        let text = format!("{} on time", counted(rows.len(), "schedule"));
        findings.push(Finding::new(Severity::Ok, name, text));
    }
    Ok(findings)
}

fn of_schedule((name, application, is_paused, late, unseen): &ScheduleRow) -> Option<Finding> {
    let (severity, text) = match (*is_paused, *late > LATE, *unseen > UNSEEN) {
        (true, ..) => (Severity::Notice, "it is paused".to_owned()),
        (false, true, _) => (
            Severity::Error,
            format!(
                "its tick is {} late; a process of `{application}` last had it {} ago",
                span(*late),
                span(*unseen)
            ),
        ),
        (false, false, true) => (
            Severity::Warning,
            format!(
                "no process of `{application}` has had it for {}",
                span(*unseen)
            ),
        ),
        (false, false, false) => return None,
    };
    let finding = Finding::new(severity, "schedules", text).about(format!("the schedule `{name}`"));
    Some(match is_paused {
        true => finding.advice(format!("`ezq schedule resume {name}` resumes it")),
        false => finding.advice(format!(
            "start a consumer of `{application}` whose code has this schedule, as it is stored: one with \
             another definition stands by"
        )),
    })
}

/// A table of ezq's own that the role may not read.
fn hidden(check: &'static str, table: &str, facts: &Facts) -> Finding {
    let role = quoted(&facts.role);
    let text = format!("the role `{}` may not read `ezq.{table}`", facts.role);
    Finding::new(Severity::Notice, check, text).remedy(format!(
        "grant usage on schema ezq to {role};\ngrant select on ezq.{table} to {role};"
    ))
}
