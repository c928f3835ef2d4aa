//! `overview`: how long an operator waits for each list while a queue holds 5,000,000 messages, most of them
//! ready, and some leased, waiting for a retry, scheduled and dead; and while the audit trail has as many
//! entries as there are dead letters.
//!
//! The filters match nothing, or only what is stored last: a page is then searched for as long as it may be.

use std::time::Instant;

use ezq::admin::{COUNT_CAP, Count, EventFilter, EventState, Events};
use ezq::engine::Engine as _;
use ezq::message::MessageId;
use ezq::sqlx::{AssertSqlSafe, query};
use ezq::{Ezq, QueueName};
use serde_json::json;

use crate::Result;
use crate::application::Application;
use crate::case::Case;
use crate::database::Database;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::queues::{checkpoint, drop_queue};

pub(super) const CASE: Case = Case {
    name: "overview",
    about: "every list of an operator, of a queue with 5,000,000 messages",
    unit: "ms",
    target: MOST,
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 5_000_000;
const NAME: &str = "bench_overview";
const MOST: Option<Target> = Some(Target::AtMost(200.0));

/// The lists, by the names of their figures. The first one is that of all queues.
const LISTS: [&str; 11] = [
    "overview",
    "errors",
    "audit",
    "audit_of_queue",
    "operations",
    "ready_by_type",
    "ready_by_key",
    "retrying_by_handler",
    "retrying_by_error",
    "dead_by_handler",
    "dead_by_error",
];

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let queue = QueueName::new(NAME)?;
    let tenth = events / 10;
    fill_all(ezq, &queue, events).await?;

    let mut millis = vec![Vec::new(); LISTS.len()];
    // The first look connects, and reads what is not cached yet.
    for repetition in 0..=options.pairs() {
        for (list, millis) in LISTS.iter().zip(&mut millis) {
            let started = Instant::now();
            look(ezq, &queue, events, list).await?;
            if repetition > 0 {
                millis.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }

    query("truncate ezq.audit, ezq.operations")
        .execute(ezq.pool())
        .await?;
    drop_queue(ezq, NAME, events).await?;
    drop_queue(ezq, &queue.dead_letters(), tenth).await?;
    application.ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    let outcomes = LISTS.into_iter().zip(millis).map(|(list, millis)| {
        let outcome = Outcome::of(CASE.measure(), Figures::Alone(millis), settings.clone());
        outcome.part(list, MOST)
    });
    Ok(outcomes.collect())
}

/// Reads one list, and checks what is known of it.
async fn look(ezq: &Ezq, queue: &QueueName, events: usize, list: &str) -> Result<()> {
    let own = ezq.events(queue)?;
    let all = EventFilter::all;
    match list {
        "overview" => return check_queues(ezq, queue, events).await,
        "errors" => drop(own.errors(20).await?),
        "audit" => drop(ezq.audit().list().await?),
        "audit_of_queue" => drop(ezq.audit().list().queue(queue).await?),
        "operations" => drop(ezq.operations().list(50).await?),
        "ready_by_type" => page(&own, EventState::Ready, all().event_type("order.lost")).await?,
        "ready_by_key" => page(&own, EventState::Ready, all().key("no such")).await?,
        "retrying_by_handler" => page(&own, EventState::Retrying, all().handler("lost")).await?,
        "retrying_by_error" => page(&own, EventState::Retrying, all().error("lost")).await?,
        "dead_by_handler" => page(&own, EventState::Dead, all().died_by("lost")).await?,
        "dead_by_error" => page(&own, EventState::Dead, all().error("lost")).await?,
        other => return Err(format!("there is no list `{other}`").into()),
    }
    Ok(())
}

async fn check_queues(ezq: &Ezq, queue: &QueueName, events: usize) -> Result<()> {
    let list = ezq.queues().list().await?.queues;
    let ours = list.iter().find(|one| one.queue == *queue);
    let ready = ours.map(|one| one.ready).unwrap_or_default();
    let due = (events - 3 * (events / 10)) as u64;
    if ready != Count::up_to(due, COUNT_CAP) {
        return Err(format!("the list shows {ready} of {due} ready messages").into());
    }
    Ok(())
}

async fn page(events: &Events<'_>, state: EventState, filter: EventFilter) -> Result<()> {
    let page = events.page(state).filter(filter).limit(50).await?;
    if !page.events.is_empty() {
        return Err("a filter that matches nothing found something".into());
    }
    Ok(())
}

/// Fills the queue: a tenth each is leased, waits for a retry, and is scheduled, and as many are dead. The
/// trail has as many entries, and there are a hundredth as many operations.
async fn fill_all(ezq: &Ezq, queue: &QueueName, events: usize) -> Result<()> {
    ezq.pgmq().ensure_queue(queue).await?;
    let live = format!("q_{NAME}");
    let dead = format!("q_{}", queue.dead_letters());
    let tenth = events / 10;

    let rest = events - 3 * tenth;
    let none = "null";
    let mark = "jsonb_build_object('ezq-returned', 1, 'ezq-h:mail', jsonb_build_object(
                  'state', 'retry', 'attempts', 1, 'errors', jsonb_build_array(jsonb_build_object(
                    'error', 'no answer from 10.0.0.' || n % 256, 'at', '2026-01-01T00:00:00Z'))))";
    let death = "jsonb_build_object('ezq-dead', jsonb_build_object(
                   'died_at', '2026-01-01T00:00:00Z', 'reason', jsonb_build_object(
                     'kind', 'fatal', 'attempts', 1, 'handler', 'mail',
                     'error', 'no route to host ' || md5(n::text))))";
    fill(ezq, &live, rest, "now() - interval '1 hour'", (0, none)).await?;
    fill(ezq, &live, tenth, "now() + interval '1 hour'", (1, none)).await?;
    fill(ezq, &live, tenth, "now() + interval '2 hours'", (1, mark)).await?;
    fill(ezq, &live, tenth, "now() + interval '1 day'", (0, none)).await?;
    fill(ezq, &dead, tenth, "now()", (0, death)).await?;

    // It makes the tables.
    let missing = MessageId::Number(i64::MAX);
    ezq.events(queue)?.discard(&missing).await?;
    let entries = format!(
        "insert into ezq.audit (at, by, action, queue, message_id, is_dead, count)
         select now(), 'Ada', 'discard', 'q' || n % 7, n, false, 1 from generate_series(1, {tenth}) n;
         insert into ezq.operations (id, action, queue, state, filter, last_id, by, began_at, ended_at)
         select 'bench ' || n, 'discard', '{NAME}', 'dead', '{{}}', n, 'Ada',
                now() + n * interval '1 us', now() from generate_series(1, {}) n",
        tenth / 100
    );
    ezq::sqlx::raw_sql(AssertSqlSafe(entries))
        .execute(ezq.pool())
        .await?;
    checkpoint(ezq).await;
    Ok(())
}

/// Inserts messages as consumers would leave them: delivered so often, and with headers.
async fn fill(
    ezq: &Ezq,
    table: &str,
    count: usize,
    due: &str,
    (delivered, headers): (u32, &str),
) -> Result<()> {
    let sql = format!(
        r#"insert into pgmq.{table} (vt, read_ct, message, headers)
           select {due} + n * interval '1 us', {delivered},
                  jsonb_build_object('specversion', '1.0', 'id', n::text, 'source', '/bench',
                                     'type', 'bench.payload', 'data', n),
                  {headers}::jsonb
           from generate_series(1, {count}) n"#
    );
    query(AssertSqlSafe(sql)).execute(ezq.pool()).await?;
    Ok(())
}
