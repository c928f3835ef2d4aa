//! `overview`: how long an operator waits for the list of queues while one of them holds 5,000,000
//! messages, most of them ready, and some leased, waiting for a retry, scheduled and dead.

use std::time::Instant;

use ezq::admin::{COUNT_CAP, Count};
use ezq::engine::Engine as _;
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
    about: "listing all queues with what they hold, one of them with 5,000,000 messages",
    unit: "ms",
    target: Some(Target::AtMost(200.0)),
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 5_000_000;
const NAME: &str = "bench_overview";

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let application = Application::counting(database.url()).await?;
    let ezq = &application.ezq;
    let events = options.events.unwrap_or(EVENTS);
    let queue = QueueName::new(NAME)?;
    let tenth = events / 10;
    fill_all(ezq, &queue, events).await?;

    let mut millis = Vec::new();
    // The first look connects, and reads what is not cached yet.
    for _ in 0..=options.pairs() {
        let started = Instant::now();
        let list = ezq.queues().list().await?;
        millis.push(started.elapsed().as_secs_f64() * 1000.0);

        let ours = list.iter().find(|one| one.queue == queue);
        let ready = ours.map(|one| one.ready).unwrap_or_default();
        let due = (events - 3 * tenth) as u64;
        if ready != Count::up_to(due, COUNT_CAP) {
            return Err(format!("the list shows {ready} of {due} ready messages").into());
        }
    }
    millis.remove(0);

    drop_queue(ezq, NAME, events).await?;
    drop_queue(ezq, &queue.dead_letters(), tenth).await?;
    application.ezq.close().await;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Alone(millis),
        settings,
    )])
}

/// Fills the queue: a tenth each is leased, waits for a retry, and is scheduled, and as many are dead.
async fn fill_all(ezq: &Ezq, queue: &QueueName, events: usize) -> Result<()> {
    ezq.pgmq().ensure_queue(queue).await?;
    let live = format!("q_{NAME}");
    let dead = format!("q_{}", queue.dead_letters());
    let tenth = events / 10;

    let rest = events - 3 * tenth;
    fill(ezq, &live, rest, "now() - interval '1 hour'", [0, 0]).await?;
    fill(ezq, &live, tenth, "now() + interval '1 hour'", [1, 0]).await?;
    fill(ezq, &live, tenth, "now() + interval '2 hours'", [1, 1]).await?;
    fill(ezq, &live, tenth, "now() + interval '1 day'", [0, 0]).await?;
    fill(ezq, &dead, tenth, "now()", [0, 0]).await?;
    checkpoint(ezq).await;
    Ok(())
}

/// Inserts messages as consumers would leave them: delivered and returned so often.
async fn fill(
    ezq: &Ezq,
    table: &str,
    count: usize,
    due: &str,
    [delivered, returned]: [u32; 2],
) -> Result<()> {
    let sql = format!(
        r#"insert into pgmq.{table} (vt, read_ct, message, headers)
           select {due} + n * interval '1 us', {delivered},
                  jsonb_build_object('specversion', '1.0', 'id', n::text, 'source', '/bench',
                                     'type', 'bench.payload', 'data', n),
                  case when {returned} > 0 then jsonb_build_object('ezq-returned', {returned}) end
           from generate_series(1, {count}) n"#
    );
    query(AssertSqlSafe(sql)).execute(ezq.pool()).await?;
    Ok(())
}
