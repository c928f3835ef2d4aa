//! Transactions that end before their handler does: by a lost lease, a timeout or an interrupt.

use std::time::{Duration, Instant};

use ezq::message::ReasonKind;
use ezq::prelude::*;
use ezq::{Handler, QueueName, sqlx};
use tokio::sync::oneshot;

use super::{Booked, Ledger, booked, unique};
use crate::kit::{Numbered, app, drain, held, only_dead, queue, soon, until};

/// Another worker takes a message over, as after a lease that ran out.
async fn take_over(ezq: &Ezq, queue: &QueueName) {
    let text = format!("update pgmq.q_{queue} set read_ct = read_ct + 1");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(ezq.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_commits_nothing() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let ledger = Ledger::of(&queue);

    let slow = Handler::on("slow", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        let started = started.clone();

        async move {
            ledger.write(&mut tx, event.n, "slow").await?;
            let (go, gone) = oneshot::channel::<()>();
            started.send(go).unwrap();

            // Nobody may tell, once the test has ended.
            let _ = gone.await;
            Ok::<_, sqlx::Error>(Booked {
                n: event.n,
                by: "slow".to_owned(),
            })
        }
    });

    let ezq = app(&queue).register(slow).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let consumer = ezq.consumer().spawn();
    let go = soon(starts.recv()).await.unwrap();
    take_over(&ezq, &queue).await;
    go.send(()).unwrap();
    until(async || consumer.counts().lost == 1).await;

    consumer.stop();
    assert_eq!(soon(consumer).await.unwrap().counts.handled, 0);
    assert_eq!(ledger.read(&ezq).await, []);
    assert_eq!(booked(&ezq, n).await, [] as [String; 0]);
    assert_eq!(
        held(&ezq, &queue).await,
        [0, 1, 0, 0],
        "the other worker still has it"
    );
}

#[tokio::test]
async fn a_renewal_that_finds_the_lease_lost_ends_the_transaction() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let sleeps = Handler::on("sleeps", move |_: Numbered, mut tx: Tx| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            sqlx::query("select pg_sleep(60)")
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let ezq = app(&queue).register(sleeps).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let consumer = ezq.consumer().lease(Duration::from_secs(1)).spawn();
    soon(starts.recv()).await.unwrap();
    take_over(&ezq, &queue).await;
    until(async || consumer.counts().lost == 1).await;
    until(async || !sleeping(&ezq).await).await;
    consumer.stop();
    soon(consumer).await.unwrap();
}

/// Whether a transaction of a handler still sleeps in this database.
async fn sleeping(ezq: &Ezq) -> bool {
    let text = "select exists (select from pg_stat_activity where state = 'active' \
                and datname = current_database() and query = 'select pg_sleep(60)')";
    sqlx::query_scalar(text)
        .fetch_one(ezq.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_timeout_stops_the_statement_that_runs() {
    let queue = queue();
    let sleeps = Handler::on("sleeps", |_: Numbered, mut tx: Tx| async move {
        sqlx::query("select pg_sleep(61)")
            .execute(&mut *tx)
            .await
            .map(|_| ())
    });

    let sleeps = sleeps
        .timeout(Some(Duration::from_millis(100)))
        .max_attempts(2);
    let ezq = app(&queue).register(sleeps).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let since = Instant::now();
    drain(&ezq).await;
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert_eq!(reason.error, "timed out after 100ms");

    let text = "select count(*) from pg_stat_activity \
                where query = 'select pg_sleep(61)' and state = 'active'";
    let still: i64 = sqlx::query_scalar(text)
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert_eq!(still, 0, "the server still sleeps");
}

#[tokio::test]
async fn an_interrupt_rolls_back_and_gives_the_event_back() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let ledger = Ledger::of(&queue);

    let slow = Handler::on("slow", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        let started = started.clone();
        async move {
            ledger.write(&mut tx, event.n, "slow").await?;
            started.send(()).unwrap();
            sqlx::query("select pg_sleep(62)")
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let ezq = app(&queue).register(slow).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let consumer = ezq.consumer().spawn();
    soon(starts.recv()).await.unwrap();
    consumer.interrupt();

    let counts = soon(consumer).await.unwrap().counts;
    assert_eq!(counts.cancelled, 1);
    assert_eq!(ledger.read(&ezq).await, []);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}
