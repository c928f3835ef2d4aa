//! Callers that publish to one queue at once share statements and commits, and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use ezq_core::engine::{Engine, Outgoing, PublishOutcome};
use ezq_core::message::QueueName;
use ezq_core::{ErrorKind, Result};
use ezq_pgmq::PgmqEngine;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::*;

/// Blocks every statement on a queue until it is closed.
async fn hold_up(queue: &QueueName) -> PgConnection {
    let mut holder = connection().await;
    run(&mut holder, "BEGIN").await;
    run(&mut holder, &format!("LOCK TABLE pgmq.q_{queue}")).await;
    holder
}

type Publishing = JoinHandle<Result<Vec<PublishOutcome>>>;

fn publish(engine: &PgmqEngine, message: Outgoing) -> Publishing {
    let engine = engine.clone();
    tokio::spawn(async move { engine.publish(vec![message]).await })
}

/// Two callers whose statements are blocked, so that further ones must wait.
async fn two_held_up(engine: &PgmqEngine, queue: &QueueName) -> [Publishing; 2] {
    let two = ["1", "2"].map(|body| publish(engine, message(queue, body)));
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgmq.q_{queue}'::regclass"
    );

    let mut connection = connection().await;
    while scalar::<i64>(&mut connection, &waiting).await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    two
}

async fn bodies(engine: &PgmqEngine, queue: &QueueName) -> Vec<String> {
    let mut bodies: Vec<_> = lease(engine, queue)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    bodies.sort();
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_share_commits_and_each_keeps_its_order() {
    const CALLERS: usize = 64;
    const EACH: usize = 20;

    let (engine, queue) = engine_and_queue().await;
    let mut callers = JoinSet::new();

    for caller in 0..CALLERS {
        let engine = engine.clone();
        let queue = queue.clone();
        callers.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..EACH {
                let message = message(&queue, &format!("[{caller}, {n}]"));
                let outcome = engine.publish(vec![message]).await.unwrap().remove(0);
                ids.push(stored(outcome).as_number().unwrap());
            }
            ids
        });
    }

    let ids = callers.join_all().await;
    assert!(
        ids.iter().all(|ids| ids.is_sorted()),
        "what a caller awaited stands first"
    );
    assert_eq!(
        ids.iter().flatten().collect::<HashSet<_>>().len(),
        CALLERS * EACH
    );

    let mut connection = connection().await;
    let disorder = format!(
        "SELECT count(*) FROM pgmq.q_{queue} a JOIN pgmq.q_{queue} b
         ON a.message -> 0 = b.message -> 0 AND (a.message -> 1)::int < (b.message -> 1)::int
         WHERE a.vt >= b.vt"
    );
    assert_eq!(scalar::<i64>(&mut connection, &disorder).await, 0);

    let commits = format!("SELECT count(DISTINCT xmin::text) FROM pgmq.q_{queue}");
    let commits = scalar::<i64>(&mut connection, &commits).await;
    assert!(
        commits * 4 < i64::try_from(CALLERS * EACH).unwrap(),
        "{commits} commits"
    );
}

#[tokio::test]
async fn one_that_the_database_refuses_fails_alone() {
    let (engine, queue) = engine_and_queue().await;
    let mut holder = hold_up(&queue).await;
    let first = two_held_up(&engine, &queue).await;
    let rest =
        ["3", "{", "5", "\"\\ud800\"", "7"].map(|body| publish(&engine, message(&queue, body)));
    tokio::task::yield_now().await;
    run(&mut holder, "COMMIT").await;

    for publishing in first {
        stored(publishing.await.unwrap().unwrap().remove(0));
    }

    for (n, publishing) in rest.into_iter().enumerate() {
        let published = publishing.await.unwrap();
        if n % 2 == 0 {
            stored(published.unwrap().remove(0));
            continue;
        }

        let PublishOutcome::Failed(error) = published.unwrap().remove(0) else {
            panic!("stored")
        };
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    }

    assert_eq!(bodies(&engine, &queue).await, ["1", "2", "3", "5", "7"]);
}

#[tokio::test]
async fn a_caller_that_is_cut_off_holds_up_nobody() {
    let (engine, queue) = engine_and_queue().await;
    let holder = hold_up(&queue).await;
    let first = two_held_up(&engine, &queue).await;
    let rest = ["3", "4", "5"].map(|body| publish(&engine, message(&queue, body)));
    tokio::task::yield_now().await;

    let [third, fourth, fifth] = rest;
    fourth.abort();
    assert!(fourth.await.unwrap_err().is_cancelled());

    for publishing in first {
        publishing.abort();
        assert!(publishing.await.unwrap_err().is_cancelled());
    }

    // The statements of dropped callers may have been carried out.
    holder.close().await.unwrap();
    for publishing in [third, fifth] {
        stored(publishing.await.unwrap().unwrap().remove(0));
    }

    let bodies = bodies(&engine, &queue).await;
    assert!(
        bodies.contains(&"3".into()) && bodies.contains(&"5".into()),
        "{bodies:?}"
    );
    assert!(
        !bodies.contains(&"4".into()),
        "cut off before it began: {bodies:?}"
    );
}

#[test]
fn a_runtime_that_ends_takes_no_place_along() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };

    let first = runtime();
    let (engine, queue, holder) = first.block_on(async {
        let (engine, queue) = engine_and_queue().await;
        let holder = hold_up(&queue).await;
        two_held_up(&engine, &queue).await;
        drop(publish(&engine, message(&queue, "3")));
        tokio::task::yield_now().await;
        (engine, queue, holder)
    });

    drop(first);
    drop(holder);
    runtime().block_on(async {
        // The connections belong to the first runtime: a failure is an answer, too.
        let publishing = engine.publish(vec![message(&queue, "4")]);
        let answered = tokio::time::timeout(Duration::from_secs(60), publishing).await;
        assert!(
            answered.is_ok(),
            "it waits for a place that nobody gives up"
        );
    });
}
