//! Ordering keys across processes: handlers that fail, workers that are killed, and of each key one
//! event after another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ezq::admin::{Blocker, DeadLetterFilter};
use ezq::consumer::StopReason;
use ezq::handler::Backoff;
use ezq::prelude::*;
use ezq::sqlx::postgres::{PgConnection, PgPool};
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::child::{Process, Role, count, say};
use crate::database::{app, connection, run, scalar, server, unique};

const KEYS: i64 = 12;
const EACH: i64 = 100;
const WORKERS: usize = 3;
const KILLS: usize = 6;
const MAX_ATTEMPTS: u32 = 3;
const CEILING: Duration = Duration::from_secs(240);

/// What a worker of this test is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    queue: String,
    seed: u64,
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "move", key = "account")]
struct Move {
    account: i64,
    n: i64,
}

/// Whether an attempt fails: one in six, the same for every run of that attempt.
fn fails(event: &Move, attempt: u32, seed: u64) -> bool {
    let mut z = seed ^ event.account.unsigned_abs() << 40 ^ event.n.unsigned_abs() << 8;
    z = (z ^ u64::from(attempt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).is_multiple_of(6)
}

/// What a child does.
pub(crate) async fn work(plan: Plan) {
    let Plan { queue, seed } = plan;
    let ledger = format!("moves_{queue}");

    let handler = Handler::on(
        "work",
        move |event: Move, context: Context, State(pool): State<PgPool>| {
            let ledger = ledger.clone();
            async move {
                let began = "SELECT clock_timestamp()::text";
                let began: String = sqlx::query_scalar(began).fetch_one(&pool).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;

                let fails = fails(&event, context.attempt(), seed);
                let sql = format!(
                    "INSERT INTO {ledger} VALUES ($1, $2, $3, $4::timestamptz, clock_timestamp())"
                );
                sqlx::query(AssertSqlSafe(sql))
                    .bind(event.account)
                    .bind(event.n)
                    .bind(!fails)
                    .bind(began)
                    .execute(&pool)
                    .await?;

                if fails {
                    Err(HandlerError::retry("as the hash says"))
                } else {
                    Ok(())
                }
            }
        },
    );

    let handler = handler
        .max_attempts(MAX_ATTEMPTS)
        .backoff(Backoff::constant(Duration::from_millis(50)));
    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .register(handler);

    let ezq = ezq.connect().await.unwrap();
    let consumer = ezq
        .consumer()
        .queue(queue)
        .concurrency(8)
        .lease(Duration::from_secs(1));
    say(&format!(
        "report {}",
        consumer.stop_on_signals().run().await.unwrap()
    ));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn events_of_a_key_keep_their_order_whatever_fails_and_whoever_is_killed() {
    let seed = match std::env::var("STRESS_SEED") {
        Ok(seed) => seed.parse().expect("STRESS_SEED is a number"),
        Err(_) => rand_seed(),
    };
    println!("STRESS_SEED={seed}");

    let url = server().await.url();
    let mut own = connection(&url).await;
    let queue = unique("ordering");
    let table = format!(
        "CREATE TABLE moves_{queue}
         (account bigint, n bigint, ok bool, began timestamptz, ended timestamptz)"
    );
    run(&mut own, &table).await;

    let ezq = app(&url, []).await;
    let events = (0..EACH).flat_map(|n| (0..KEYS).map(move |account| Move { account, n }));
    let events: Vec<Move> = events.collect();
    ezq.publish_all(&events).queue(&queue).await.unwrap();

    let start = || {
        Process::start(
            &url,
            &Role::Ordering(Plan {
                queue: queue.to_string(),
                seed,
            }),
        )
    };

    let mut workers: Vec<Process> = (0..WORKERS).map(|_| start()).collect();
    let began = Instant::now();
    let left = format!("SELECT count(*) FROM pgmq.q_{queue}");

    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(600)).await;
        workers[kill % WORKERS].kill().await;
        workers[kill % WORKERS] = start();
    }

    assert!(
        scalar::<i64>(&mut own, &left).await > 0,
        "the work was over before the last kill"
    );

    while scalar::<i64>(&mut own, &left).await > 0 {
        assert!(
            began.elapsed() < CEILING,
            "seed {seed}: the queue does not get empty"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let mut returned = 0;
    for worker in &mut workers {
        returned += count(&worker.stop().await, "returned");
    }

    println!(
        "{} events in {:.1?}, {returned} given back",
        events.len(),
        began.elapsed()
    );

    let dead = dead(&ezq, &queue).await;
    let order = first_successes(&mut own, &queue).await;
    for account in 0..KEYS {
        let gone = |n: &i64| !dead.contains(&(account, *n));
        let wanted: Vec<i64> = (0..EACH).filter(gone).collect();
        assert_eq!(order[&account], wanted, "seed {seed}: account {account}");
    }

    let overlaps = |of: &str| {
        format!(
            "SELECT count(*) FROM moves_{queue} a JOIN moves_{queue} b
             ON a.account {of} b.account AND a.ctid < b.ctid
             AND a.began < b.ended AND b.began < a.ended"
        )
    };

    let same: i64 = scalar(&mut own, &overlaps("=")).await;
    let others: i64 = scalar(&mut own, &overlaps("<>")).await;
    assert_eq!(same, 0, "seed {seed}: two events of one key at once");
    assert!(others > 100, "keys did not run beside each other: {others}");
    run(&mut own, &format!("DROP TABLE moves_{queue}")).await;
}

fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.as_secs() ^ u64::from(now.subsec_micros()) << 32
}

async fn dead(ezq: &Ezq, queue: &QueueName) -> BTreeSet<(i64, i64)> {
    let letters = ezq.dead_letters(queue).unwrap();
    let letters = letters
        .list(&DeadLetterFilter::all(), usize::MAX)
        .await
        .unwrap();

    let event = |body: &str| -> (i64, i64) {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let event: Move = serde_json::from_value(body["data"].clone()).unwrap();
        (event.account, event.n)
    };
    letters.iter().map(|letter| event(&letter.body)).collect()
}

/// The events of each key, in the order in which they first succeeded.
async fn first_successes(own: &mut PgConnection, queue: &QueueName) -> BTreeMap<i64, Vec<i64>> {
    let sql = format!(
        "SELECT account, n FROM moves_{queue} WHERE ok GROUP BY account, n ORDER BY min(ended)"
    );
    let rows: Vec<(i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(own)
        .await
        .unwrap();
    let mut order: BTreeMap<i64, Vec<i64>> = BTreeMap::new();

    for (account, n) in rows {
        order.entry(account).or_default().push(n);
    }
    order
}

#[tokio::test]
async fn consumers_of_one_process_share_keys_and_an_end_drains_them() {
    let url = server().await.url();
    let queue = unique("ordering");
    let log = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::<i64, Vec<i64>>::new()));
    let inner = std::sync::Arc::clone(&log);

    let handler = Handler::on("work", move |event: Move| {
        let log = std::sync::Arc::clone(&inner);
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            log.lock()
                .unwrap()
                .entry(event.account)
                .or_default()
                .push(event.n);
        }
    });

    let ezq = app(&url, [handler]).await;
    // One key far ahead of the others.
    let hot = (0..300).map(|n| Move { account: 0, n });
    let others = (0..20).flat_map(|n| (1..=20).map(move |account| Move { account, n }));
    let events: Vec<Move> = hot.chain(others).collect();
    ezq.publish_all(&events).queue(&queue).await.unwrap();

    let idle = || {
        ezq.consumer()
            .queue(&queue)
            .concurrency(8)
            .until_idle()
            .run()
    };
    ezq.publish(&End::default()).queue(&queue).await.unwrap();

    let report = ezq
        .consumer()
        .queue(&queue)
        .concurrency(16)
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.reason, report.counts.handled),
        (StopReason::End, 700),
        "{report}"
    );

    ezq.publish_all(&events).queue(&queue).await.unwrap();
    let reports = tokio::try_join!(idle(), idle(), idle()).unwrap();
    let handled = [&reports.0, &reports.1, &reports.2].map(|report| report.counts.handled);

    let rest = ezq
        .consumer()
        .queue(&queue)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(handled.iter().sum::<u64>() + rest.counts.handled, 700);

    for (account, numbers) in &*log.lock().unwrap() {
        let count = if *account == 0 { 300 } else { 20 };
        assert_eq!(
            *numbers,
            (0..count).chain(0..count).collect::<Vec<_>>(),
            "{account}"
        );
    }
}

#[tokio::test]
async fn a_key_that_waits_for_a_retry_is_listed() {
    let url = server().await.url();
    let queue = unique("ordering");
    let handler = Handler::on("work", |event: Move| async move {
        match event.account {
            1 => Err(HandlerError::retry_after(
                Duration::from_secs(600),
                "not now",
            )),
            _ => Ok(()),
        }
    });

    let ezq = app(&url, [handler]).await;
    let events: Vec<Move> = (0..4)
        .flat_map(|n| (0..3).map(move |account| Move { account, n }))
        .collect();
    ezq.publish_all(&events).queue(&queue).await.unwrap();

    let report = ezq
        .consumer()
        .queue(&queue)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.retried),
        (8, 1),
        "{report}"
    );

    let blocked = ezq.blocked_keys(&queue, 10).await.unwrap();
    assert_eq!(blocked.len(), 1);

    let one = &blocked[0];
    assert_eq!(
        (one.key.as_str(), one.blocker, one.waiting),
        ("1", Blocker::Retry, 3)
    );
    assert!(one.until > chrono::Utc::now() + Duration::from_secs(500));
}

#[tokio::test]
async fn transactions_that_take_the_lock_of_a_key_publish_in_their_order() {
    let url = server().await.url();
    let queue = unique("ordering");
    let ezq = app(&url, []).await;

    let publish = async |n: i64, pause: u64| {
        let mut tx = ezq.pool().begin().await.unwrap();
        ezq.lock_key(&mut tx, &queue, "7").await.unwrap();
        let event = ezq.publish(&Move { account: 7, n }).queue(&queue);
        let id = event.within(&mut tx).await.unwrap().id;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        tx.commit().await.unwrap();
        (id, Instant::now())
    };

    let (one, two) = tokio::join!(publish(1, 200), publish(2, 0));
    assert_eq!(
        one.0 < two.0,
        one.1 < two.1,
        "ids in the order of the commits"
    );
}
