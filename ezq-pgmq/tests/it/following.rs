//! Following a queue by the numbers of its messages.

use ezq_core::engine::Browse as _;
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::Connection as _;

use crate::support::*;

async fn bodies(engine: &PgmqEngine, queue: &QueueName, after: i64, except: &[i64]) -> Vec<String> {
    let found = engine
        .numbered_after(queue, after, except, 100)
        .await
        .unwrap();
    found.into_iter().map(|copy| copy.body.unwrap()).collect()
}

#[tokio::test]
async fn messages_are_read_by_number_whatever_their_state_and_not_leased() {
    let (engine, queue) = engine_and_queue().await;
    assert_eq!(engine.newest(&queue).await.unwrap(), None);
    publish(&engine, &queue, &["1", "2", "3"]).await;
    lease(&engine, &queue).await;
    assert_eq!(engine.newest(&queue).await.unwrap(), Some(3));
    assert_eq!(bodies(&engine, &queue, 0, &[]).await, ["1", "2", "3"]);
    assert_eq!(bodies(&engine, &queue, 1, &[2]).await, ["3"]);
    let found = engine.numbered_after(&queue, 0, &[], 2).await.unwrap();
    assert_eq!((found.len(), found[0].deliveries), (2, 1));

    let error = engine.newest(&unique("missing")).await.unwrap_err();
    assert_eq!(error.kind(), ezq_core::ErrorKind::QueueMissing);
}

/// An application follows it, as the command line does.
#[tokio::test]
async fn a_message_that_commits_after_a_later_number_is_followed_as_well() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let builder = ezq_core::app::App::builder().without_discovered_handlers();
    let app = builder.build(engine.clone()).unwrap();
    let events = app.events(&queue).unwrap();
    let mut follow = events.follow(0).await.unwrap();
    assert!(follow.ready().await.unwrap().is_empty());

    let mut slow = connection().await;
    let mut tx = slow.begin().await.unwrap();
    let insert = format!("INSERT INTO pgmq.q_{queue} (vt, message) VALUES (now(), '2')");
    run(&mut tx, &insert).await;
    publish(&engine, &queue, &["3"]).await;
    let read = |found: Vec<ezq_core::engine::EventCopy>| -> Vec<String> {
        found.into_iter().map(|copy| copy.body.unwrap()).collect()
    };
    assert_eq!(read(follow.next().await.unwrap()), ["3"]);
    tx.commit().await.unwrap();
    assert_eq!(read(follow.next().await.unwrap()), ["2"]);
    assert!(follow.ready().await.unwrap().is_empty());

    let mut follow = events.follow(2).await.unwrap();
    assert_eq!(read(follow.ready().await.unwrap()), ["2", "3"]);
    app.close().await;
}
