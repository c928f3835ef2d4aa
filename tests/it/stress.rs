//! Ten thousand events, handlers that fail, and workers that are killed: nothing is lost.
//!
//! `STRESS_SEED=n` in the environment runs one case again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ezq::handler::Backoff;
use ezq::message::ReasonKind;
use ezq::prelude::*;
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::child::{Job, Ledger, Process, Role, count, create_ledger, say};
use crate::database::{app, connection, run, scalar, server, unique};

const EVENTS: i64 = 10_000;
const WORKERS: usize = 3;
const KILLS: usize = 10;
const MAX_ATTEMPTS: u32 = 3;
const LEASE: Duration = Duration::from_secs(2);
/// For each worker: with 20 ms a handling the work outlasts the kills on a machine of any speed.
const CONCURRENCY: usize = 5;
const CEILING: Duration = Duration::from_secs(300);

/// What a worker of this test is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    queue: String,
    seed: u64,
    worker: usize,
}

/// Whether an attempt at an event fails: one in five, the same for every run of that attempt.
pub(crate) fn fails(n: i64, attempt: u32, seed: u64) -> bool {
    // The finaliser of splitmix64 (S. Vigna), which spreads neighbours.
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(mix(seed) ^ n.unsigned_abs()) ^ u64::from(attempt)).is_multiple_of(5)
}

/// What a child does.
pub(crate) async fn work(plan: Plan) {
    let ledger = Ledger::open(&plan.queue, &plan.worker.to_string());
    let seed = plan.seed;

    let handler = Handler::on("work", move |job: Job, context: Context| {
        let ledger = ledger.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let fails = fails(job.n, context.attempt(), seed);
            ledger.write(job.n, &context, !fails).await;
            if fails {
                Err(HandlerError::retry("as the hash says"))
            } else {
                Ok(())
            }
        }
    });

    let handler = handler
        .max_attempts(MAX_ATTEMPTS)
        .backoff(Backoff::constant(Duration::from_millis(200)));
    let builder = Ezq::builder()
        .without_discovered_handlers()
        .register(handler);

    let ezq = builder.connect().await.unwrap();
    let consumer = ezq
        .consumer()
        .queue(plan.queue)
        .concurrency(CONCURRENCY)
        .lease(LEASE);
    say(&format!(
        "report {}",
        consumer.stop_on_signals().run().await.unwrap()
    ));
}

#[tokio::test]
async fn every_event_ends_handled_or_dead_whatever_is_killed() {
    let seed = match std::env::var("STRESS_SEED") {
        Ok(seed) => seed.parse().expect("STRESS_SEED is a number"),
        Err(_) => seed_of_now(),
    };
    println!("STRESS_SEED={seed}");

    let began = Instant::now();
    let url = server().await.url();
    let mut own = connection(&url).await;
    let queue = unique("stress");
    create_ledger(&mut own, &queue).await;

    let ezq = app(&url, []).await;
    let jobs: Vec<Job> = (0..EVENTS).map(|n| Job { n }).collect();
    ezq.publish_all(&jobs).queue(&queue).await.unwrap();

    let start = |worker| {
        Process::start(
            &url,
            &Role::Stress(Plan {
                queue: queue.to_string(),
                seed,
                worker,
            }),
        )
    };

    let mut workers: Vec<Process> = (0..WORKERS).map(start).collect();
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    every_second.tick().await;

    for kill in 0..KILLS {
        every_second.tick().await;
        workers[kill % WORKERS].kill().await;
        workers[kill % WORKERS] = start(WORKERS + kill);
    }

    let left = format!("SELECT count(*) FROM pgmq.q_{queue}");
    let left_after_kills: i64 = scalar(&mut own, &left).await;
    assert!(
        left_after_kills > 0,
        "the work was over before the last kill: kill earlier"
    );

    while scalar::<i64>(&mut own, &left).await > 0 {
        assert!(
            began.elapsed() < CEILING,
            "seed {seed}: the queue does not get empty"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let worked = began.elapsed();
    let mut lost = 0;
    for worker in &mut workers {
        lost += count(&worker.stop().await, "lost");
    }
    let dead = dead(&ezq, &queue, seed).await;
    check_ledger(&mut own, &queue, &dead, seed).await;

    let ledger = format!("ledger_{queue}");
    let runs: i64 = scalar(&mut own, &format!("SELECT count(*) FROM {ledger}")).await;
    let twice = format!(
        "SELECT count(*) FROM (SELECT FROM {ledger} GROUP BY n, attempt HAVING count(*) > 1) d"
    );
    let twice: i64 = scalar(&mut own, &twice).await;

    // An attempt needs one delivery: each more was cut short by a kill.
    let redelivered = format!("SELECT count(DISTINCT n) FROM {ledger} WHERE deliveries > attempt");
    let redelivered: i64 = scalar(&mut own, &redelivered).await;
    println!(
        "{EVENTS} events in {worked:.1?}: {} dead, {runs} runs, {KILLS} kills with {left_after_kills} \
         events left after the last, {redelivered} events taken over, {twice} attempts run twice, \
         {lost} leases lost",
        dead.len()
    );
    assert!(redelivered > 0, "no kill hit an event");
    run(&mut own, &format!("DROP TABLE {ledger}")).await;
}

pub(crate) fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.as_secs() ^ u64::from(now.subsec_micros())
}

/// The events among the dead letters, each there once and for its attempts alone.
async fn dead(ezq: &Ezq, queue: &QueueName, seed: u64) -> BTreeSet<i64> {
    let letters = ezq
        .dead_letters(queue)
        .unwrap()
        .list(&ezq::admin::DeadLetterFilter::all(), usize::MAX)
        .await
        .unwrap();

    let mut dead = BTreeSet::new();
    for letter in letters {
        let body: serde_json::Value = serde_json::from_str(&letter.body).unwrap();
        let n = body["data"]["n"].as_i64().unwrap();
        let reason = letter.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::MaxAttempts, "seed {seed}: {n}");
        assert_eq!(reason.attempts, MAX_ATTEMPTS, "seed {seed}: {n}");
        assert!(dead.insert(n), "seed {seed}: {n} is dead twice");
    }

    dead
}

/// Runs may be in the ledger twice: a worker killed between its entry and the settlement leaves the
/// same attempt, with the same outcome, to another.
async fn check_ledger(
    connection: &mut sqlx::PgConnection,
    queue: &QueueName,
    dead: &BTreeSet<i64>,
    seed: u64,
) {
    let sql = format!(
        "SELECT n, coalesce(array_agg(DISTINCT attempt) FILTER (WHERE ok), '{{}}'),
                coalesce(array_agg(DISTINCT attempt) FILTER (WHERE NOT ok), '{{}}')
         FROM ledger_{queue} GROUP BY n ORDER BY n"
    );

    let rows: Vec<(i64, Vec<i32>, Vec<i32>)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .unwrap();
    let events: Vec<i64> = rows.iter().map(|(n, ..)| *n).collect();
    assert!(
        events.into_iter().eq(0..EVENTS),
        "seed {seed}: not every event was run"
    );

    for (n, succeeded, failed) in rows {
        let first_success = (1..=MAX_ATTEMPTS).find(|attempt| !fails(n, *attempt, seed));
        let as_dead = dead.contains(&n);
        let attempts = |until: u32| (1..=i32::try_from(until).unwrap()).collect::<Vec<_>>();

        match first_success {
            // Handled, at the very attempt that can succeed, and not dead.
            Some(attempt) => {
                assert!(
                    !as_dead,
                    "seed {seed}: {n} is dead and could have succeeded"
                );
                assert_eq!(
                    succeeded,
                    [i32::try_from(attempt).unwrap()],
                    "seed {seed}: {n}"
                );
                assert_eq!(failed, attempts(attempt - 1), "seed {seed}: {n}");
            }
            // Dead, after all its failures, and not handled.
            None => {
                assert!(as_dead, "seed {seed}: {n} is neither handled nor dead");
                assert!(succeeded.is_empty(), "seed {seed}: {n} is handled and dead");
                assert_eq!(failed, attempts(MAX_ATTEMPTS), "seed {seed}: {n}");
            }
        }
    }
}
