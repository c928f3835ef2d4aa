//! `broadcast_1`, `broadcast_3`, `broadcast_10`: the cost of storing a copy in each of 1, 3 or 10
//! subscribed queues.
//!
//! The reference stores bodies of the same shape in the same queues by one prepared statement that names
//! all queues, so it reads no subscriptions. Both commit once for each event, one event after another.

use std::time::Instant;

use ezq::QueueName;
use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, PgConnection, query};
use serde_json::json;
use tokio::sync::Mutex;

use crate::bodies::Bodies;
use crate::case::{Case, CaseFuture};
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{create, drop_queue};

pub(super) const ONE: Case = case(
    "broadcast_1",
    "one event at a time to 1 queue; against one insert",
    |options, database| Box::pin(run(&ONE, 1, options, database)),
);
pub(super) const THREE: Case = case(
    "broadcast_3",
    "one event at a time to 3 queues; against one statement of 3 inserts",
    |options, database| Box::pin(run(&THREE, 3, options, database)),
);
pub(super) const TEN: Case = case(
    "broadcast_10",
    "one event at a time to 10 queues; against one statement of 10 inserts",
    |options, database| Box::pin(run(&TEN, 10, options, database)),
);

const EVENTS: usize = 1000;
const APP: &str = "ezq_bench";

const fn case(
    name: &'static str,
    about: &'static str,
    run: for<'a> fn(&'a Options, &'a Database) -> CaseFuture<'a>,
) -> Case {
    Case {
        name,
        about,
        unit: "events/s",
        target: None,
        run,
    }
}

async fn run(
    case: &Case,
    queues: usize,
    options: &Options,
    database: &Database,
) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .app(APP)
        .connect()
        .await?;
    let names = (0..queues)
        .map(|n| QueueName::new(&format!("bench_broadcast_{n}")))
        .collect::<ezq::Result<Vec<_>>>()?;

    let subscriptions = ezq.subscriptions()?;
    // What an earlier run that failed has left.
    subscriptions.remove_app(APP).await?;
    for queue in &names {
        create(&ezq, queue.as_str()).await?;
        subscriptions.add(queue, Payload::TYPE).await?;
    }
    let plain = Mutex::new(database.connect().await?);

    let pairs = Pairs::measure(
        case.name,
        options.pairs(),
        |_| broadcast(&ezq, &names, events),
        |_| insert(&ezq, &plain, &names, events),
    )
    .await?;

    for queue in &names {
        drop_queue(&ezq, queue.as_str(), events).await?;
    }
    subscriptions.remove_app(APP).await?;
    ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("queues".into(), json!(queues));
    settings.insert(
        "body_bytes".into(),
        json!(Bodies::default().next(&Payload::new(0))?.len()),
    );
    Ok(vec![Outcome::of(
        case.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn broadcast(ezq: &Ezq, queues: &[QueueName], events: usize) -> Result<Run> {
    empty(ezq, queues).await?;

    let began = Instant::now();
    for n in 0..events {
        let sent = ezq.broadcast(&Payload::new(n)).await?;
        // In the measured time, on both sides.
        check("copies", sent.copies.len() as u64, queues.len())?;
    }
    Ok(Run {
        events,
        took: began.elapsed(),
    })
}

async fn insert(
    ezq: &Ezq,
    plain: &Mutex<PgConnection>,
    queues: &[QueueName],
    events: usize,
) -> Result<Run> {
    empty(ezq, queues).await?;
    // One statement, as a careful application would write it for queues that it knows.
    let copies: Vec<String> = queues
        .iter()
        .map(|queue| {
            format!(
                "{queue} as (insert into pgmq.q_{queue} (vt, message)
             values (clock_timestamp(), ($1::text)::jsonb) returning msg_id)"
            )
        })
        .collect();
    let ids: Vec<String> = queues
        .iter()
        .map(|queue| format!("select msg_id from {queue}"))
        .collect();
    let sql = format!("with {} {}", copies.join(", "), ids.join(" union all "));
    let mut connection = plain.lock().await;

    let began = Instant::now();
    let mut bodies = Bodies::default();
    for n in 0..events {
        let body = bodies.next(&Payload::new(n))?;
        let ids = query(AssertSqlSafe(sql.clone()))
            .bind(body)
            .fetch_all(&mut *connection)
            .await?;
        check("copies", ids.len() as u64, queues.len())?;
    }
    Ok(Run {
        events,
        took: began.elapsed(),
    })
}

async fn empty(ezq: &Ezq, queues: &[QueueName]) -> Result<()> {
    for queue in queues {
        create(ezq, queue.as_str()).await?;
    }
    Ok(())
}
