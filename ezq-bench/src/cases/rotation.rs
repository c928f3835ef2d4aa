//! `rotation`: what a queue would gain whose table consists of partitions by message number, each of which is
//! dropped once all its messages are gone, so that dead rows go with it. Neither side is ezq: both are the same
//! plain statements, on such a table and on a single one. `rotation_held` is the same while another session
//! holds a snapshot.

use std::time::Instant;

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, query, query_scalar};
use serde_json::json;
use tokio::sync::Mutex;

use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome};
use crate::pairs::{Pairs, Run};

pub(super) const CASE: Case = Case {
    name: "rotation",
    about: "messages through a table of partitions that are dropped in turn; against a single table",
    unit: "events/s",
    target: None,
    run: |options, database| Box::pin(run(options, database)),
};

const EVENTS: usize = 100_000;
const BATCH: usize = 100;
/// How many messages a partition has.
const PARTITION: usize = 10_000;
const PAIRS: usize = 3;

/// A batch is stored, claimed in the order of its due times, and deleted, as PGMQ does it.
const STORE: &str = "
    insert into bench_rotation (msg_id, read_ct, vt, message)
    select n, 0, clock_timestamp(), jsonb_build_object('n', n, 'text', repeat('x', 150))
    from generate_series($1::bigint, $2::bigint) n";
const CLAIM: &str = "
    with due as (select msg_id from bench_rotation where vt <= clock_timestamp()
                 order by vt limit 100 for update skip locked)
    update bench_rotation q set vt = clock_timestamp() + interval '30 s', read_ct = read_ct + 1
    from due where q.msg_id = due.msg_id returning q.msg_id";
const DELETE: &str = "delete from bench_rotation where msg_id = any ($1::bigint[])";

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let pairs = options.repetitions(PAIRS);
    // It brings PGMQ, whose version is one of the settings.
    let ezq = Ezq::builder().database_url(database.url());
    ezq.connect().await?.close().await;
    let connection = Mutex::new(database.connect().await?);
    // Without a snapshot vacuum may remove dead rows, but a run ends before it comes.
    let free = Pairs::measure(
        CASE.name,
        pairs,
        |_| pass_through(&connection, events, true),
        |_| pass_through(&connection, events, false),
    )
    .await?;
    let held = Pairs::measure(
        "rotation_held",
        pairs,
        |_| pass_through_held(database, &connection, events, true),
        |_| pass_through_held(database, &connection, events, false),
    )
    .await?;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("partition".into(), json!(PARTITION));
    let held = Outcome::of(CASE.measure(), Figures::Pairs(held), settings.clone());
    Ok(vec![
        Outcome::of(CASE.measure(), Figures::Pairs(free), settings),
        held.part("rotation_held", None),
    ])
}

async fn pass_through_held(
    database: &Database,
    connection: &Mutex<PgConnection>,
    events: usize,
    rotates: bool,
) -> Result<Run> {
    let snapshot = database.hold_snapshot().await?;
    let run = pass_through(connection, events, rotates).await?;
    snapshot.close().await?;
    Ok(run)
}

async fn pass_through(
    connection: &Mutex<PgConnection>,
    events: usize,
    rotates: bool,
) -> Result<Run> {
    // Both sides use it in turn, so nobody waits for it.
    let mut connection = connection.lock().await;
    create(&mut connection, rotates).await?;

    let started = Instant::now();
    for first in (0..events).step_by(BATCH) {
        if rotates && first % PARTITION == 0 {
            rotate(&mut connection, first / PARTITION).await?;
        }
        // A queue that is short all the time: what grows is dead rows alone.
        let last = events.min(first + BATCH) - 1;
        query(STORE)
            .bind(i64::try_from(first)?)
            .bind(i64::try_from(last)?)
            .execute(&mut *connection)
            .await?;
        let claimed: Vec<i64> = query_scalar(CLAIM).fetch_all(&mut *connection).await?;
        check(
            "the number of messages claimed",
            claimed.len() as u64,
            last + 1 - first,
        )?;
        query(DELETE)
            .bind(claimed)
            .execute(&mut *connection)
            .await?;
    }
    let took = started.elapsed();

    connection.execute("drop table bench_rotation").await?;
    Ok(Run { events, took })
}

async fn create(connection: &mut PgConnection, rotates: bool) -> Result<()> {
    let partitions = match rotates {
        true => "partition by range (msg_id)",
        false => "",
    };
    let create = format!(
        "drop table if exists bench_rotation;
         create table bench_rotation (msg_id bigint primary key, read_ct int not null,
           vt timestamptz not null, message jsonb) {partitions};
         create index on bench_rotation (vt)"
    );
    connection.execute(AssertSqlSafe(create)).await?;
    Ok(())
}

/// Drops the partition before the last one, in which nothing is left, and makes the next one.
async fn rotate(connection: &mut PgConnection, next: usize) -> Result<()> {
    let from = next * PARTITION;
    let to = from + PARTITION;
    let mut statements = format!(
        "create table bench_rotation_{next} partition of bench_rotation
         for values from ({from}) to ({to});"
    );
    // The last one may still hold what was stored before its successor was there.
    if let Some(done) = next.checked_sub(2) {
        statements.push_str(&format!("drop table bench_rotation_{done}"));
    }
    connection.execute(AssertSqlSafe(statements)).await?;
    Ok(())
}
