//! Another session locks what a consumer is about to settle: the rest goes on.

use std::sync::Arc;

use ezq::Handler;
use ezq::consumer::Counts;
use tokio::sync::watch;

use crate::child::Job;
use crate::database::{CEILING, app, connection, run, scalar, server, unique, until};

#[tokio::test]
async fn a_locked_row_delays_its_own_acknowledgement_and_nobody_elses() {
    let url = server().await.url();
    let mut own = connection(&url).await;
    let mut holder = connection(&url).await;
    let queue = unique("locks");
    let other = unique("locks");
    let (started, mut starts) = watch::channel(0);
    let (go, gate) = watch::channel(false);
    let started = Arc::new(started);

    let handler = Handler::on("gated", move |job: Job| {
        let started = Arc::clone(&started);
        let mut gate = gate.clone();
        async move {
            started.send_modify(|count| *count += 1);
            if job.n >= 0 {
                gate.wait_for(|open| *open).await.unwrap();
            }
        }
    });

    let ezq = app(&url, [handler]).await;
    let jobs: Vec<Job> = (0..20).map(|n| Job { n }).collect();
    ezq.publish_all(&jobs).queue(&queue).await.unwrap();

    let consumer = ezq.consumer().queue(&queue).concurrency(20).spawn();
    let others = ezq.consumer().queue(&other).spawn();
    starts.wait_for(|count| *count == 20).await.unwrap();

    let id: i64 = scalar(
        &mut own,
        &format!("SELECT max(msg_id) - 7 FROM pgmq.q_{queue}"),
    )
    .await;

    let lock = format!("BEGIN; SELECT FROM pgmq.q_{queue} WHERE msg_id = {id} FOR UPDATE");
    run(&mut holder, &lock).await;
    go.send_replace(true);

    let acknowledged = format!("SELECT count(*) = 1 AND min(msg_id) = {id} FROM pgmq.q_{queue}");
    let theirs = async {
        ezq.publish(&Job { n: -1 }).queue(&other).await.unwrap();
        while others.counts().handled < 1 {
            tokio::task::yield_now().await;
        }
    };

    let both = async { tokio::join!(theirs, until(&mut own, &acknowledged)) };
    tokio::time::timeout(CEILING, both).await.unwrap();
    // What comes now does not wait for it either.
    ezq.publish(&Job { n: 20 }).queue(&queue).await.unwrap();

    let all = async {
        while consumer.counts().handled < 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(CEILING, all).await.unwrap();
    run(&mut holder, "ROLLBACK").await;

    until(
        &mut own,
        &format!("SELECT count(*) = 0 FROM pgmq.q_{queue}"),
    )
    .await;
    consumer.stop();
    others.stop();

    let Counts { handled, lost, .. } = consumer.await.unwrap().counts;
    assert_eq!((handled, lost), (21, 0));
    assert_eq!(others.await.unwrap().counts.handled, 1);
}
