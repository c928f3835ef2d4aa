//! `consume`: how fast a backlog is worked off by a handler that does nothing.
//!
//! The reference reads 100 messages with `pgmq.read` and deletes them with `pgmq.delete`, again and
//! again, on one connection. Both find the same messages in a fresh queue.

use std::time::Instant;

use ezq::message::Retention;
use ezq::prelude::*;
use ezq::sqlx::{PgConnection, query_as, query_scalar};
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
use crate::queues::{Template, count, create, drop_queue};

pub(super) const CASE: Case = Case {
    name: "consume",
    about: "a backlog, no-op handler, concurrency 64, delete; against read(100) and delete",
    unit: "events/s",
    target: Some(Target::AtLeast(1.1)),
    run: |options, database| Box::pin(run(&CASE, options, database, Retention::Delete)),
};

const EVENTS: usize = 300_000;
const READ: i32 = 100;

pub(super) async fn run(
    case: &Case,
    options: &Options,
    database: &Database,
    retention: Retention,
) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&application.ezq, case.name, events).await?;
    let plain = Mutex::new(database.connect().await?);

    let pairs = Pairs::measure(
        case.name,
        options.pairs(),
        |n| {
            let job = Job {
                retention,
                ..Job::new(case.name, "ezq", n)
            };
            application.work_off(&template, job)
        },
        |n| read_and_remove(&application.ezq, &plain, &template, n, retention),
    )
    .await?;

    let mut settings = application.close(database, template).await?;
    settings.insert("reference_read".into(), json!(READ));
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn read_and_remove(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    template: &Template,
    n: usize,
    retention: Retention,
) -> Result<Run> {
    let queue = format!("bench_consume_plain_{n}");
    create(ezq, &queue).await?;
    template.copy(ezq, &queue).await?;
    // PGMQ's own calls, as its documentation shows them.
    let remove = match retention.is_archive() {
        true => "select pgmq.archive($1, $2)",
        false => "select pgmq.delete($1, $2)",
    };
    let mut connection = connection.lock().await;

    let started = Instant::now();
    let mut removed = 0;
    loop {
        let messages: Vec<(i64, String)> =
            // 30 s of invisibility, which no batch takes.
            query_as("select msg_id, message::text from pgmq.read($1, 30, $2)")
                .bind(&queue)
                .bind(READ)
                .fetch_all(&mut *connection)
                .await?;
        if messages.is_empty() {
            break;
        }
        let ids: Vec<i64> = messages.iter().map(|(id, _)| *id).collect();
        let gone: Vec<i64> = query_scalar(remove)
            .bind(&queue)
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
        removed += gone.len() as u64;
    }
    let took = started.elapsed();

    let events = template.due;
    check("the number of messages that were removed", removed, events)?;
    let wanted = if retention.is_archive() { events } else { 0 };
    check(
        "the archive",
        count(ezq, &format!("pgmq.a_{queue}")).await?,
        wanted,
    )?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run { events, took })
}
