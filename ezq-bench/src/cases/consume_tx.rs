//! `consume_tx`: a handler that inserts a row through its `Tx`, one transaction an event.
//!
//! The reference has as many connections as ezq's pool. Each one claims 100 messages with `pgmq.read`. For
//! each message it begins a transaction, deletes the message if nobody else has read it since, inserts
//! the row and commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ezq::Handler;
use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, Connection as _, PgConnection, query, query_as};
use serde_json::json;

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
    name: "consume_tx",
    about: "a handler that inserts a row through `Tx`; against begin, fenced delete, insert, commit",
    unit: "events/s",
    target: Some(Target::AtLeast(0.85)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 10_000;
const READ: i32 = 100;
const ROWS: Rows = Rows("bench_tx_rows");
const INSERT: &str = "insert into bench_tx_rows (n) values ($1)";

fn handler(counter: Arc<AtomicU64>) -> Handler {
    Handler::on("insert", move |event: Payload, mut tx: Tx| {
        let counter = Arc::clone(&counter);
        async move {
            query(INSERT).bind(event.number()).execute(&mut *tx).await?;
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<(), HandlerError>(())
        }
    })
}

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::open(database.url(), handler).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&application.ezq, CASE.name, events).await?;
    // As many connections as ezq has: the comparison is of the work, not of the pool.
    let connections = application.ezq.pool().options().get_max_connections();
    // The closures run many times, so they move references.
    let app = &application;
    let events_of_run = &template;

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
            let run = plain(&app.ezq, database, events_of_run, connections, n).await?;
            ROWS.check_and_drop(&app.ezq, run.events).await?;
            Ok(run)
        },
    )
    .await?;

    let mut settings = application.close(database, template).await?;
    settings.insert("connections".into(), json!(connections));
    settings.insert("reference_connections".into(), json!(connections));
    settings.insert("reference_read".into(), json!(READ));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn plain(
    ezq: &Ezq,
    database: &Database,
    template: &Template,
    connections: u32,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_tx_plain_{n}");
    create(ezq, &queue).await?;
    template.copy(ezq, &queue).await?;
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(database.connect().await?);
    }

    let started = Instant::now();
    let workers: Vec<_> = open
        .into_iter()
        // A task for each, so that the loops run on all cores, as ezq does.
        .map(|connection| tokio::spawn(work(connection, queue.clone())))
        .collect();
    let mut handled = 0;
    for worker in workers {
        handled += worker.await??;
    }
    let took = started.elapsed();

    check(
        "the number of messages that were deleted",
        handled,
        template.due,
    )?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

async fn work(mut connection: PgConnection, queue: String) -> Result<u64> {
    // Fenced as ezq's is: a message that was delivered again is left alone.
    let delete = format!("delete from pgmq.q_{queue} where msg_id = $1 and read_ct = $2");
    let mut handled = 0;
    loop {
        let messages: Vec<(i64, i32, String)> =
            query_as("select msg_id, read_ct, message::text from pgmq.read($1, 30, $2)")
                .bind(&queue)
                .bind(READ)
                .fetch_all(&mut connection)
                .await?;
        if messages.is_empty() {
            connection.close().await?;
            return Ok(handled);
        }
        for (id, reads, body) in messages {
            let number = number(&body)?;
            let mut tx = connection.begin().await?;
            let deleted = query(AssertSqlSafe(delete.clone()))
                .bind(id)
                .bind(reads)
                .execute(&mut *tx)
                .await?;
            if deleted.rows_affected() == 1 {
                query(INSERT).bind(number).execute(&mut *tx).await?;
                tx.commit().await?;
                handled += 1;
            }
        }
    }
}
