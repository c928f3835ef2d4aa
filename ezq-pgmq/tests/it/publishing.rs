//! What is stored, in which order, and what is refused.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Engine, PublishOutcome};
use ezq_core::message::MessageId;
use sqlx::Connection as _;

use crate::support::*;

#[tokio::test]
async fn one_bad_message_harms_no_other() {
    let (engine, queue) = engine_and_queue().await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let bodies = [
        "1",
        "\"\\u0000\"",
        "2",
        "\"\\ud800\"",
        "{",
        "",
        "\"\0\"",
        deep.as_str(),
        "3",
    ];

    let messages = bodies.iter().map(|body| message(&queue, body)).collect();
    let outcomes = engine.publish(messages).await.unwrap();
    let mut ids = Vec::new();
    for (outcome, body) in outcomes.into_iter().zip(bodies) {
        match outcome {
            PublishOutcome::Stored(id) => ids.push((id, body)),
            PublishOutcome::Failed(error) => assert_eq!(error.kind(), ErrorKind::InvalidEvent),
            other => panic!("{body}: {other:?}"),
        }
    }

    let stored: Vec<_> = lease(&engine, &queue).await;
    let stored: Vec<_> = stored
        .iter()
        .map(|d| (d.receipt.message_id().clone(), d.body.as_str()))
        .collect();
    assert_eq!(stored, ids);
    assert_eq!(
        ids.iter().map(|(_, body)| *body).collect::<Vec<_>>(),
        ["1", "2", "3"]
    );
}

#[tokio::test]
async fn refused_bodies_alone_are_outcomes_too() {
    let (engine, queue) = engine_and_queue().await;
    let outcomes = engine.publish(vec![message(&queue, "{")]).await.unwrap();
    assert!(matches!(outcomes[..], [PublishOutcome::Failed(_)]));
    assert!(engine.publish(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn bad_headers_are_refused_like_bad_bodies() {
    let (engine, queue) = engine_and_queue().await;
    let mut bad = message(&queue, "1");
    bad.headers.insert("k", "a\0b");

    let outcomes = engine
        .publish(vec![bad, message(&queue, "2")])
        .await
        .unwrap();
    assert!(matches!(
        outcomes[..],
        [PublishOutcome::Failed(_), PublishOutcome::Stored(_)]
    ));
}

#[tokio::test]
async fn stores_a_mebibyte_and_deep_nesting_exactly() {
    let (engine, queue) = engine_and_queue().await;
    let large = format!("{{\"text\": \"{}\"}}", "ä".repeat(512 * 1024));
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    publish(&engine, &queue, &[&large, &nested]).await;

    let bodies: Vec<_> = lease(&engine, &queue)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    assert_eq!(bodies, [large, nested]);
}

#[tokio::test]
async fn empty_headers_are_stored_as_null() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let sql = format!("SELECT headers IS NULL FROM pgmq.q_{queue}");
    assert!(scalar::<bool>(&mut connection().await, &sql).await);
}

#[tokio::test]
async fn a_time_in_the_past_means_at_once_and_does_not_overtake() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let past = message(&queue, "2").due(Due::At(chrono::DateTime::UNIX_EPOCH));
    engine.publish(vec![past]).await.unwrap();

    let bodies: Vec<_> = lease(&engine, &queue)
        .await
        .into_iter()
        .map(|d| d.body)
        .collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test]
async fn a_missing_queue_is_an_error_until_it_is_ensured_again() {
    let (engine, queue) = engine_and_queue().await;
    run(
        &mut connection().await,
        &format!("SELECT pgmq.drop_queue('{queue}')"),
    )
    .await;

    let error = engine
        .publish(vec![message(&queue, "1")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);

    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;
    assert_eq!(lease_one(&engine, &queue).await.body, "1");
}

#[tokio::test]
async fn one_missing_queue_does_not_harm_another() {
    let (engine, queue) = engine_and_queue().await;
    let missing = message(&unique("none"), "1");
    let outcomes = engine
        .publish(vec![missing, message(&queue, "2")])
        .await
        .unwrap();
    assert!(matches!(
        outcomes[..],
        [PublishOutcome::Failed(_), PublishOutcome::Stored(_)]
    ));
}

#[tokio::test]
async fn publishes_in_the_callers_transaction() {
    let (engine, queue) = engine_and_queue().await;
    let other = unique("other");
    engine.ensure_queue(&other).await.unwrap();

    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    let messages = vec![
        message(&queue, "1"),
        message(&other, "2"),
        message(&queue, "3"),
    ];

    let outcomes = engine.publish_in(&mut tx, messages.clone()).await.unwrap();
    let ids = outcomes
        .into_iter()
        .map(|outcome| stored(outcome).as_number());
    assert_eq!(ids.collect::<Vec<_>>(), [1, 1, 2].map(Some));
    assert!(lease(&engine, &queue).await.is_empty());

    tx.commit().await.unwrap();
    assert_eq!(lease(&engine, &queue).await.len(), 2);

    let mut tx = own.begin().await.unwrap();
    engine.publish_in(&mut tx, messages).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(lease(&engine, &queue).await.is_empty());
}

#[tokio::test]
async fn a_refused_body_leaves_the_callers_transaction_usable() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    let bad = vec![message(&queue, "1"), message(&queue, "\"\\u0000\"")];
    let error = engine.publish_in(&mut tx, bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);

    engine
        .publish_in(&mut tx, vec![message(&queue, "2")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(lease_one(&engine, &queue).await.body, "2");
}

#[tokio::test]
async fn cancels_and_reschedules_what_was_never_delivered() {
    let (engine, queue) = engine_and_queue().await;
    let later = message(&queue, "1").due(Due::After(Duration::from_secs(3600)));
    engine.publish(vec![later.clone(), later]).await.unwrap();

    let first = MessageId::Number(1);
    let second = MessageId::Number(2);
    assert!(engine.cancel(&queue, &first).await.unwrap());
    assert!(!engine.cancel(&queue, &first).await.unwrap());
    assert!(engine.reschedule(&queue, &second, Due::Now).await.unwrap());

    lease_one(&engine, &queue).await;
    assert!(!engine.cancel(&queue, &second).await.unwrap());
    assert!(!engine.reschedule(&queue, &second, Due::Now).await.unwrap());
}

#[tokio::test]
async fn counts_by_state_and_purges() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2"]).await;
    let deliveries = lease(&engine, &queue).await;
    engine
        .settle(&queue, vec![(deliveries[0].receipt.clone(), dead())])
        .await
        .unwrap();

    let later = message(&queue, "3").due(Due::After(Duration::from_secs(3600)));
    engine.publish(vec![later]).await.unwrap();
    let stats = engine.stats(&queue).await.unwrap();
    assert_eq!(
        (stats.ready, stats.in_progress, stats.scheduled, stats.dead),
        (0, 1, 1, 1)
    );

    // A message that waits for its time does not count as latency.
    assert_eq!(stats.oldest_ready, None);
    publish(&engine, &queue, &["4"]).await;

    let stats = engine.stats(&queue).await.unwrap();
    assert_eq!(stats.ready, 1);
    assert!(stats.oldest_ready.unwrap() < Duration::from_secs(60));
    assert_eq!(engine.purge(&queue).await.unwrap(), 3);
    assert_eq!(engine.stats(&queue).await.unwrap().dead, 1);
}
