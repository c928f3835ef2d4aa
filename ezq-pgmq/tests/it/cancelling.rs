//! Cancellations in their table: made when something is cancelled, heard of across processes, also where a
//! notification is lost, and gone after a day.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Cancel, CancelOrder, Cancellations, Engine, QueueCancellations};
use ezq_core::message::{MessageId, QueueName};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(30);
const STANDS: &str = "SELECT to_regclass('ezq.cancellations') IS NOT NULL";

fn cancellations(engine: &PgmqEngine) -> &dyn Cancellations {
    engine.cancellations().unwrap()
}

fn order() -> CancelOrder {
    CancelOrder::new(Cancel::Dead, "Ada")
}

/// Whether the message that is to be cancelled was there.
async fn ask(engine: &PgmqEngine, queue: &QueueName, id: &MessageId) -> bool {
    let asked = cancellations(engine).ask(queue, id, &order()).await;
    asked.unwrap()
}

/// Waits until so much is to be cancelled.
async fn told(watcher: &mut watch::Receiver<QueueCancellations>, count: usize) {
    let waited = watcher.wait_for(|all| all.len() == count);
    timeout(PATIENCE, waited)
        .await
        .expect("nobody told")
        .unwrap();
}

/// A database of the test's own with a message in a queue, and a connection.
async fn database() -> (String, QueueName, MessageId, PgConnection) {
    let url = fresh_database().await;
    let queue = unique("q");
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    let published = engine.publish(vec![message(&queue, "1")]).await.unwrap();
    let id = published.into_iter().map(stored).next().unwrap();
    let own = PgConnection::connect(&url).await.unwrap();
    (url, queue, id, own)
}

#[tokio::test]
async fn a_cancellation_whose_notification_is_lost_is_found_by_the_next_look() {
    let (url, queue, id, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut watcher = cancellations(&engine).watch(&queue).await.unwrap();
    // An id by hand means the message that has this number now.
    let by_hand = MessageId::Number(id.as_number().unwrap());
    assert!(ask(&engine, &queue, &by_hand).await);
    told(&mut watcher, 1).await;
    assert_eq!(watcher.borrow()[0].message_id, id);

    let row = "queue, message_id, stored_at, is_discarded, asked_by, asked_at";
    let insert = |queue: &str, number: i64, at: &str| {
        format!(
            "INSERT INTO ezq.cancellations ({row})
             VALUES ('{queue}', {number}, now(), true, 'by hand', {at})"
        )
    };
    run(&mut own, "DELETE FROM ezq.cancellations").await;
    told(&mut watcher, 0).await;
    run(&mut own, &insert(queue.as_str(), 7, "now()")).await;
    told(&mut watcher, 1).await;
    let seen = watcher.borrow()[0].clone();
    assert_eq!(
        (seen.order.what, &*seen.order.by),
        (Cancel::Discard, "by hand")
    );

    // Those of an earlier day, of a name that no queue has and of another queue are not heard of.
    let old = "now() - interval '25 hours'";
    run(&mut own, &insert(queue.as_str(), 8, old)).await;
    run(&mut own, &insert("Not a Name", 9, "now()")).await;
    run(&mut own, &insert("other", 10, "now()")).await;
    let fresh = engine_at(&url).await;
    let watcher = cancellations(&fresh).watch(&queue).await.unwrap();
    assert_eq!(watcher.borrow().len(), 1, "{watcher:?}");

    // Whoever asks next removes what is a day old.
    assert!(ask(&engine, &queue, &id).await);
    let kept = "SELECT array_agg(message_id ORDER BY message_id) FROM ezq.cancellations";
    let number = id.as_number().unwrap();
    assert_eq!(scalar::<Vec<i64>>(&mut own, kept).await, [number, 7, 9, 10]);
}

#[tokio::test]
async fn only_an_order_makes_the_table() {
    let (url, queue, id, mut own) = database().await;
    let engine = engine_at(&url).await;
    let watcher = cancellations(&engine).watch(&queue).await.unwrap();
    assert!(watcher.borrow().is_empty());
    let one = std::slice::from_ref(&id);
    cancellations(&engine).finish(&queue, one).await.unwrap();
    let letter = cancellations(&engine).letter_of(&queue, &id).await;
    assert_eq!(letter.unwrap(), None);
    assert!(!scalar::<bool>(&mut own, STANDS).await);

    assert!(ask(&engine, &queue, &id).await);
    assert!(scalar::<bool>(&mut own, STANDS).await);
}

#[tokio::test]
async fn a_table_that_was_dropped_cancels_nothing_and_is_made_again() {
    let (url, queue, id, mut own) = database().await;
    let engine = engine_at(&url).await;
    let mut watcher = cancellations(&engine).watch(&queue).await.unwrap();
    for _ in 0..2 {
        assert!(ask(&engine, &queue, &id).await);
        told(&mut watcher, 1).await;
        run(&mut own, "DROP TABLE ezq.cancellations").await;
        told(&mut watcher, 0).await;
    }
}

#[tokio::test]
async fn a_role_without_rights_consumes_and_hears_of_no_cancellation() {
    let (url, queue, id, mut own) = database().await;
    let admin = engine_at(&url).await;
    assert!(ask(&admin, &queue, &id).await);
    let role = unique("role");
    run(
        &mut own,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, ezq TO {role};
             GRANT SELECT ON ezq.migrations TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON pgmq.q_{queue}, pgmq.q_{queue}_dlq TO {role}"
        ),
    )
    .await;

    let url = url.replacen("postgres@", &format!("{role}@"), 1);
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let watcher = cancellations(&engine).watch(&queue).await.unwrap();
    assert!(
        watcher.borrow().is_empty(),
        "what cannot be read is not known"
    );
    let refused = cancellations(&engine).ask(&queue, &id, &order()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SchemaMissing, "{refused:#?}");
    let told = refused.to_string();
    assert!(
        told.contains("on ezq.cancellations to"),
        "it says what to grant: {told}"
    );
    assert_eq!(lease(&engine, &queue).await.len(), 1, "it consumes");
}
