//! `capture`: 64 sessions, each of which inserts one row at a time into a captured table and awaits
//! the commit, while a process looks for the changes and is woken by them.
//!
//! The reference is the same table with the same triggers, while no process looks for changes.

use std::time::Instant;

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::pgmq::{PgmqConfig, PgmqEngine};
use ezq::sqlx::{AssertSqlSafe, Executor as _, PgConnection, query_scalar};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};

pub(super) const CASE: Case = Case {
    name: "capture",
    about: "64 sessions insert into a captured table while its queue is woken; against nobody woken",
    unit: "inserts/s",
    target: Some(Target::AtLeast(0.8)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 12_800;
const SESSIONS: usize = 64;
const NAME: &str = "bench_capture";

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let each = options.events.unwrap_or(EVENTS).div_ceil(SESSIONS);
    let queue = QueueName::new(NAME)?;
    let mut own = database.connect().await?;
    let engine = connect(database).await?;
    engine.ensure_queue(&queue).await?;
    own.execute("drop table if exists bench_capture; create table bench_capture (n int)")
        .await?;
    engine.capture(NAME, &queue).await?;
    engine.close().await;

    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(database.connect().await?);
    }
    let sessions = Mutex::new(sessions);

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |_| woken(database, &queue, &sessions, each),
        |_| insert(database, &sessions, each),
    )
    .await?;

    own.execute(AssertSqlSafe(format!(
        "drop table {NAME}; select pgmq.drop_queue('{NAME}')"
    )))
    .await?;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(each * SESSIONS));
    settings.insert("sessions".into(), json!(SESSIONS));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

async fn connect(database: &Database) -> Result<PgmqEngine> {
    Ok(PgmqEngine::connect(PgmqConfig::url(database.url())?).await?)
}

/// Inserts while a process is woken.
async fn woken(
    database: &Database,
    queue: &QueueName,
    sessions: &Mutex<Vec<PgConnection>>,
    each: usize,
) -> Result<Run> {
    let engine = connect(database).await?;
    let mut wakeups = engine
        .wakeups(queue)
        .await?
        .ok_or("the engine wakes nobody")?;
    let before = *wakeups.borrow_and_update();
    let run = insert(database, sessions, each).await?;
    // Nobody may stop looking: the last commit still wakes.
    wakeups.changed().await?;
    check("the queue woken", u64::from(*wakeups.borrow() > before), 1)?;
    engine.close().await;
    Ok(run)
}

async fn insert(
    database: &Database,
    sessions: &Mutex<Vec<PgConnection>>,
    each: usize,
) -> Result<Run> {
    let mut own = database.connect().await?;
    // The checkpoint would otherwise fall into some runs and not into others.
    let empty = format!("truncate pgmq.q_{NAME}; checkpoint");
    own.execute(AssertSqlSafe(empty)).await?;

    let mut sessions = sessions.lock().await;

    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut session in sessions.drain(..) {
        tasks.spawn(async move {
            for _ in 0..each {
                session
                    .execute("insert into bench_capture values (1)")
                    .await?;
            }
            Ok::<_, ezq::sqlx::Error>(session)
        });
    }
    while let Some(session) = tasks.join_next().await {
        // The sessions are kept: connecting 64 times is no part of the case.
        sessions.push(session??);
    }
    let took = began.elapsed();

    let events = each * SESSIONS;
    let count = format!("select count(*) from pgmq.q_{NAME}");
    let stored: i64 = query_scalar(AssertSqlSafe(count))
        .fetch_one(&mut own)
        .await?;
    check("the number of events", u64::try_from(stored)?, events)?;
    Ok(Run { events, took })
}
