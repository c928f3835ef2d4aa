//! What is claimed, in which order, and when.

mod backlogs;

use std::time::Duration;

use chrono::Utc;
use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Engine as _, LeaseRequest};
use ezq_core::message::QueueName;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

fn request(queue: &QueueName, max: usize) -> LeaseRequest {
    LeaseRequest::new(queue.clone(), max, TTL).keys(max)
}

#[tokio::test]
async fn hands_out_a_batch_in_its_order() {
    let (engine, queue) = engine_and_queue().await;
    let bodies: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    publish(&engine, &queue, &bodies).await;

    let mut got = Vec::new();
    for _ in 0..6 {
        let leased = engine.lease(request(&queue, 50)).await.unwrap();
        got.extend(leased.deliveries.into_iter().map(|d| d.body));
    }
    assert_eq!(got, bodies);
}

#[tokio::test]
async fn fills_in_every_field_of_a_delivery() {
    let (engine, queue) = engine_and_queue().await;
    let mut out = message(&queue, r#"{"a": 9007199254740993.10}"#);
    out.headers.insert("k", "v");
    engine.publish(vec![out]).await.unwrap();

    let first = lease_one(&engine, &queue).await;
    assert_eq!(first.body, r#"{"a": 9007199254740993.10}"#);
    assert_eq!(first.headers.text("k"), Some("v"));
    assert_eq!(first.deliveries, 1);
    assert!(first.due <= first.leased_at && first.enqueued_at <= first.leased_at);

    let [_fence, rel, due] = first.receipt.token().words().unwrap();
    assert_eq!(due, first.due.timestamp_micros());
    assert_eq!(
        first.receipt.message_id().stored_at(),
        Some(first.enqueued_at)
    );

    let sql = format!("SELECT 'pgmq.q_{queue}'::regclass::oid::bigint");
    assert_eq!(rel, scalar::<i64>(&mut connection().await, &sql).await);
    expire(&queue).await;
    assert_eq!(lease_one(&engine, &queue).await.deliveries, 2);
}

#[tokio::test]
async fn hands_out_only_what_stands_before_a_position() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2", "3"]).await;
    let all = lease(&engine, &queue).await;
    for delivery in &all {
        let release = (delivery.receipt.clone(), ezq_core::engine::Settle::Release);
        engine.settle(&queue, vec![release]).await.unwrap();
    }

    let before = request(&queue, 10).before(all[2].position());
    let leased = engine.lease(before.clone()).await.unwrap();
    let bodies: Vec<_> = leased.deliveries.iter().map(|d| d.body.as_str()).collect();
    assert_eq!(bodies, ["1", "2"]);
    let leased = engine.lease(before).await.unwrap();
    assert!(leased.deliveries.is_empty() && leased.next_due.is_none());
}

#[tokio::test]
async fn tells_when_the_next_message_falls_due() {
    let (engine, queue) = engine_and_queue().await;
    assert_eq!(
        engine.lease(request(&queue, 1)).await.unwrap().next_due,
        None
    );

    let later = message(&queue, "1").due(Due::After(Duration::from_millis(300)));
    engine.publish(vec![later]).await.unwrap();

    let leased = engine.lease(request(&queue, 1)).await.unwrap();
    let next_due = leased.next_due.unwrap();
    assert!(
        leased.deliveries.is_empty() && next_due <= Duration::from_millis(300),
        "{next_due:?}"
    );

    tokio::time::sleep(next_due).await;
    assert_eq!(
        engine
            .lease(request(&queue, 1))
            .await
            .unwrap()
            .deliveries
            .len(),
        1
    );
}

#[tokio::test]
async fn is_due_to_the_microsecond() {
    let (engine, queue) = engine_and_queue().await;
    let at = chrono::DateTime::from_timestamp_micros(4_102_444_800_123_457).unwrap();
    let later = |at| message(&queue, "1").due(Due::At(at));
    engine.publish(vec![later(at), later(at)]).await.unwrap();
    let sql = format!("SELECT array_agg(vt ORDER BY msg_id) FROM pgmq.q_{queue}");
    let times: Vec<chrono::DateTime<Utc>> = scalar(&mut connection().await, &sql).await;
    assert_eq!(times, [at, at + chrono::TimeDelta::microseconds(1)]);
}

#[tokio::test]
async fn odd_rows_of_other_clients_harm_no_other() {
    let (engine, queue) = engine_and_queue().await;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers) VALUES
           (now(), NULL, NULL), (now(), '[]', '[1]'), (now(), '{deep}', '\"text\"'),
           (now(), '1e400', '{{\"n\": 1e400}}'), (now(), '{{}}', 'null'), (now(), '{{}}', '{deep}')"
    );
    run(&mut connection().await, &sql).await;

    let deliveries = lease(&engine, &queue).await;
    assert_eq!(deliveries.len(), 6);
    assert_eq!(deliveries[0].body, "null");
    assert_eq!(
        deliveries[1].headers.original(),
        Some(&serde_json::json!([1]))
    );
    assert_eq!(deliveries[2].body, deep);
    assert!(deliveries.iter().all(|d| d.headers.is_empty()));

    let all = deliveries
        .into_iter()
        .map(|d| (d.receipt, retry(Duration::ZERO)));

    let outcomes = engine.settle(&queue, all.collect()).await.unwrap();
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o, ezq_core::engine::SettleOutcome::Done)),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn ids_go_beyond_32_bits() {
    let (engine, queue) = engine_and_queue().await;
    let sql = format!("SELECT setval('pgmq.q_{queue}_msg_id_seq', 1::bigint << 40)");
    run(&mut connection().await, &sql).await;
    let ids = publish(&engine, &queue, &["1"]).await;
    assert_eq!(ids[0].as_number(), Some((1 << 40) + 1));

    let delivery = lease_one(&engine, &queue).await;
    let outcomes = engine
        .settle(&queue, vec![(delivery.receipt, dead())])
        .await
        .unwrap();
    assert!(matches!(
        outcomes[..],
        [ezq_core::engine::SettleOutcome::Done]
    ));

    let dead = engine
        .dead_letters()
        .unwrap()
        .list(&queue, None, 10)
        .await
        .unwrap();
    assert_eq!(dead[0].original_id.as_ref(), Some(&ids[0]));
}

#[tokio::test]
async fn a_lease_lasts_at_least_a_millisecond() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let delivery = lease_for(&engine, &queue, Duration::ZERO).await.remove(0);
    let sql = format!("SELECT vt FROM pgmq.q_{queue}");
    let vt: chrono::DateTime<Utc> = scalar(&mut connection().await, &sql).await;
    assert!(vt > delivery.leased_at - chrono::TimeDelta::milliseconds(1));
    assert!(vt <= delivery.leased_at + chrono::TimeDelta::milliseconds(1));
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_an_error() {
    let engine = engine().await;
    let error = engine.lease(request(&unique("none"), 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
}

#[tokio::test]
async fn row_level_security_is_an_error_and_no_empty_queue() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;

    let mut own = PgConnection::connect(&url).await.unwrap();
    let role = unique("role");
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role};
         ALTER TABLE pgmq.q_{queue} ENABLE ROW LEVEL SECURITY"
    );
    run(&mut own, &sql).await;

    let limited = engine_at(&url.replace("//postgres@", &format!("//{role}@"))).await;
    let error = limited.lease(request(&queue, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(
        ezq_core::error::error_chain(&error).contains("row-level security"),
        "{error:?}"
    );
}
