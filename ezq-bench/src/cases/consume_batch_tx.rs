//! `consume_batch_tx`: batches of 100 whose handler inserts a row for each event through its `Tx`; and
//! `consume_batch_tx_noop`, whose handler does nothing.
//!
//! The reference claims and deletes 100 messages in one statement and inserts the same rows, in one
//! transaction, on one connection. Without rows to insert the statement is alone: what it returned is lost
//! with its process, so it is the most that a queue could do if each event ran at most once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ezq::Handler;
use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, Connection as _, PgConnection, query, query_as};
use serde_json::json;
use tokio::sync::Mutex;

use crate::application::{Application, Job};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{Template, create, drop_queue};
use crate::rows::{Rows, number};

pub(super) const CASE: Case = Case {
    name: "consume_batch_tx",
    about: "batches of 100 that insert 100 rows through `Tx`; against claim-and-delete and insert",
    unit: "events/s",
    target: Some(Target::AtLeast(0.85)),
    run: |options, database| Box::pin(run(options, database)),
};

pub(super) const NOOP: Case = Case {
    name: "consume_batch_tx_noop",
    about: "batches of 100 with a `Tx` that is not used; against claim-and-delete alone (at most once)",
    unit: "events/s",
    target: Some(Target::AtLeast(0.8)),
    run: |options, database| Box::pin(run_noop(options, database)),
};

const EVENTS: usize = 100_000;
const BATCH: usize = 100;
const ROWS: Rows = Rows("bench_batch_rows");
const INSERT: &str = "insert into bench_batch_rows (n) select unnest($1::bigint[])";

fn handler(counter: Arc<AtomicU64>) -> Handler {
    Handler::on_batch("insert", move |batch: Batch<Payload>, mut tx: Tx| {
        let counter = Arc::clone(&counter);
        async move {
            let numbers: Vec<i64> = batch.events().map(Payload::number).collect();
            query(INSERT).bind(numbers).execute(&mut *tx).await?;
            counter.fetch_add(batch.len() as u64, Ordering::Relaxed);
            Ok::<(), HandlerError>(())
        }
    })
    .batch_size(BATCH)
}

fn noop(counter: Arc<AtomicU64>) -> Handler {
    Handler::on_batch("noop", move |batch: Batch<Payload>, _: Tx| {
        counter.fetch_add(batch.len() as u64, Ordering::Relaxed);
        std::future::ready(())
    })
    .batch_size(BATCH)
}

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::open(database.url(), handler).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&application.ezq, CASE.name, events).await?;
    let plain = Mutex::new(database.connect().await?);
    // The closures run many times, so they move references.
    let app = &application;
    let events_of_run = &template;
    let connection = &plain;

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |n| async move {
            ROWS.create(&app.ezq).await?;
            let run = app
                .work_off(events_of_run, Job::new(CASE.name, "ezq", n))
                .await?;
            ROWS.check_and_drop(&app.ezq, run.events).await?;
            Ok(run)
        },
        |n| async move {
            ROWS.create(&app.ezq).await?;
            let run = claim_delete_insert(&app.ezq, connection, events_of_run, n).await?;
            ROWS.check_and_drop(&app.ezq, run.events).await?;
            Ok(run)
        },
    )
    .await?;

    outcome(&CASE, (application, database), template, pairs).await
}

async fn run_noop(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::open(database.url(), noop).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&application.ezq, NOOP.name, events).await?;
    let plain = Mutex::new(database.connect().await?);

    let pairs = Pairs::measure(
        NOOP.name,
        options.pairs(),
        |n| application.work_off(&template, Job::new(NOOP.name, "ezq", n)),
        |n| claim_delete(&application.ezq, &plain, &template, n),
    )
    .await?;

    outcome(&NOOP, (application, database), template, pairs).await
}

async fn outcome(
    case: &Case,
    (application, database): (Application, &Database),
    template: Template,
    pairs: Pairs,
) -> Result<Vec<Outcome>> {
    let mut settings = application.close(database, template).await?;
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("reference_connections".into(), json!(1));
    let figures = Figures::Pairs(pairs);
    Ok(vec![Outcome::of(case.measure(), figures, settings)])
}

/// Fills a queue, and returns the least that works it off: a claim that deletes.
async fn filled(ezq: &Ezq, template: &Template, queue: &str) -> Result<String> {
    create(ezq, queue).await?;
    template.copy(ezq, queue).await?;
    Ok(format!(
        "delete from pgmq.q_{queue} q
         using (select msg_id from pgmq.q_{queue} where vt <= now()
                order by vt limit {BATCH} for update skip locked) due
         where q.msg_id = due.msg_id
         returning q.msg_id, q.message::text"
    ))
}

async fn claim_delete(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    template: &Template,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_batch_alone_{n}");
    let claim = filled(ezq, template, &queue).await?;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    let mut seen = 0;
    loop {
        let messages: Vec<(i64, String)> = query_as(AssertSqlSafe(claim.clone()))
            .fetch_all(&mut *connection)
            .await?;
        // The loop is alone on its queue, so that nothing found means nothing left.
        if messages.is_empty() {
            break;
        }
        // Each event is decoded on both sides.
        for (_, body) in &messages {
            number(body)?;
        }
        seen += messages.len() as u64;
    }
    let took = started.elapsed();

    check("the number of events that were read", seen, template.due)?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

async fn claim_delete_insert(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    template: &Template,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_batch_plain_{n}");
    let claim = filled(ezq, template, &queue).await?;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    loop {
        let mut tx = connection.begin().await?;
        let messages: Vec<(i64, String)> = query_as(AssertSqlSafe(claim.clone()))
            .fetch_all(&mut *tx)
            .await?;
        // The loop is alone on its queue, so that nothing found means nothing left.
        if messages.is_empty() {
            tx.rollback().await?;
            break;
        }
        let numbers: Vec<i64> = messages
            .iter()
            .map(|(_, body)| number(body))
            .collect::<Result<_>>()?;
        query(INSERT).bind(numbers).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    let took = started.elapsed();

    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}
