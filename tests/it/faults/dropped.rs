//! Tables that somebody drops while consumers run.

use std::sync::Arc;
use std::time::Duration;

use ezq::consumer::StopReason;
use ezq::prelude::*;
use ezq::{Handler, sqlx};
use tokio::sync::watch;

use super::Seen;
use crate::child::Job;
use crate::database::{CEILING, app, connection, run, scalar, server, snapshot, unique, until};

#[tokio::test]
async fn goes_on_after_its_queue_is_dropped() {
    let url = server().await.url();
    let mut own = connection(&url).await;
    let queue = unique("faults");
    let seen = Seen::new();
    let ezq = app(&url, [seen.handler(Duration::ZERO)]).await;
    let handle = ezq.consumer().queue(&queue).spawn();
    ezq.publish(&Job { n: 0 }).queue(&queue).await.unwrap();
    seen.until_has(0).await;

    for n in 1..=3 {
        run(&mut own, &format!("SELECT pgmq.drop_queue('{queue}')")).await;
        ezq.publish(&Job { n }).queue(&queue).await.unwrap();
        seen.until_has(n).await;
    }

    // Also when nobody publishes: the consumer itself creates it again.
    run(&mut own, &format!("SELECT pgmq.drop_queue('{queue}')")).await;
    until(
        &mut own,
        &format!("SELECT to_regclass('pgmq.q_{queue}') IS NOT NULL"),
    )
    .await;
    handle.stop();

    let report = handle.await.unwrap();
    assert_eq!(report.reason, StopReason::Handle);
    assert_eq!(report.counts.handled + report.counts.lost, 4, "{report}");
    assert!(seen.twice().is_empty(), "{:?}", seen.twice());
}

#[tokio::test]
async fn what_ran_when_its_queue_was_dropped_settles_nothing_of_the_new_one() {
    let url = server().await.url();
    let mut own = connection(&url).await;
    let queue = unique("faults");
    let (started, mut starts) = watch::channel(0);
    let (go, gate) = watch::channel(0);
    let started = Arc::new(started);

    let handler = Handler::on("gated", move |job: Job| {
        let started = Arc::clone(&started);
        let mut gate = gate.clone();
        async move {
            started.send_replace(job.n);
            gate.wait_for(|n| *n >= job.n).await.unwrap();
        }
    });

    let ezq = app(&url, [handler]).await;
    let first = ezq
        .consumer()
        .queue(&queue)
        .concurrency(1)
        .lease(CEILING)
        .spawn();

    ezq.publish_all(&[Job { n: 1 }, Job { n: 2 }])
        .queue(&queue)
        .await
        .unwrap();
    starts.wait_for(|n| *n == 1).await.unwrap();

    // The second is held behind it: there is no room for what comes to the new queue.
    until(
        &mut own,
        &format!("SELECT sum(read_ct) = 2 FROM pgmq.q_{queue}"),
    )
    .await;
    run(&mut own, &format!("SELECT pgmq.drop_queue('{queue}')")).await;

    // Others hold the new queue's messages: the same ids, the same read counts.
    ezq.publish_all(&[Job { n: 3 }, Job { n: 4 }])
        .queue(&queue)
        .await
        .unwrap();

    let claim = format!("UPDATE pgmq.q_{queue} SET read_ct = 1, vt = now() + interval '1 hour'");
    run(&mut own, &claim).await;
    let ids = format!("SELECT string_agg(msg_id::text, ' ' ORDER BY msg_id) FROM pgmq.q_{queue}");
    assert_eq!(scalar::<String>(&mut own, &ids).await, "1 2");

    let held = snapshot(&mut own, &queue).await;
    go.send_replace(2);
    first.stop();

    let report = first.await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (0, 2),
        "{report}"
    );
    assert_eq!(snapshot(&mut own, &queue).await, held);
}

/// Publishes an event with a dedupe key to the queue `kept`, by its own publisher.
pub(super) fn publishing(name: &'static str) -> Handler {
    Handler::on(
        name,
        move |Job { n }: Job, publisher: Publisher| async move {
            let event = publisher.publish(&Job { n }).queue("kept");
            event.dedupe_key(format!("{name} {n}")).await.map(drop)
        },
    )
}

/// The same in a transaction, with which the event goes out.
fn committing(name: &'static str) -> Handler {
    Handler::on(
        name,
        move |Job { n }: Job, publisher: Publisher, mut tx: Tx| async move {
            sqlx::query("SELECT 1").execute(&mut *tx).await?;
            let event = publisher.publish(&Job { n }).queue("kept");
            event.dedupe_key(format!("{name} {n}")).await?;
            Ok::<_, HandlerError>(())
        },
    )
}

#[tokio::test]
async fn handlers_go_on_after_the_tables_were_dropped_that_their_events_need() {
    let name = unique("dropped");
    let mut admin = connection(&server().await.url()).await;
    run(&mut admin, &format!("CREATE DATABASE {name}")).await;
    let url = server().await.database_url(name.as_str());

    for handler in [publishing("plain"), committing("in a transaction")] {
        let queue = unique("q");
        let builder = Ezq::builder()
            .database_url(&url)
            .without_discovered_handlers();
        let builder = builder
            .register(handler)
            .retention(&queue, ezq::message::Retention::TRAIL);

        let ezq = builder.connect().await.unwrap();
        let mut own = connection(&url).await;
        let consumer = ezq.consumer().queue(&queue).spawn();

        for n in 0..3 {
            ezq.publish(&Job { n }).queue(&queue).await.unwrap();
            let kept = format!(
                "SELECT EXISTS (SELECT FROM ezq.trail WHERE queue = '{queue}')
                 AND EXISTS (SELECT FROM ezq.dedupe WHERE key LIKE '% {n}')"
            );
            until_made(&mut own, &kept).await;
            run(&mut own, "DROP TABLE ezq.trail, ezq.dedupe").await;
        }

        consumer.stop();
        let counts = consumer.await.unwrap().counts;
        assert_eq!((counts.handled, counts.dead_lettered), (3, 0));
        run(&mut own, "DELETE FROM pgmq.q_kept").await;
    }
}

/// Waits until a question about tables that may not be there yet is answered with yes.
async fn until_made(own: &mut sqlx::PgConnection, question: &str) {
    let stand = "SELECT to_regclass('ezq.trail') IS NOT NULL
                 AND to_regclass('ezq.dedupe') IS NOT NULL";
    until(own, stand).await;
    until(own, question).await;
}

#[tokio::test]
async fn a_dropped_dead_letter_queue_is_created_again_for_the_next_dead_letter() {
    let url = server().await.url();
    let mut own = connection(&url).await;
    let queue = unique("faults");
    let fatal = Handler::on("fatal", |_: Job| async {
        Err::<(), _>(HandlerError::fatal("as told"))
    });

    let ezq = app(&url, [fatal]).await;
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
    run(
        &mut own,
        &format!("SELECT pgmq.drop_queue('{}')", queue.dead_letters()),
    )
    .await;
    ezq.publish(&Job { n: 1 }).queue(&queue).await.unwrap();

    let report = ezq
        .consumer()
        .queue(&queue)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(report.counts.dead_lettered, 1, "{report}");
    assert_eq!(ezq.stats(&queue).await.unwrap().dead, 1);
}
