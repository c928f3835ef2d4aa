//! Dropping a queue: what it holds keeps it, unless that is to go; and nothing of it is left.

use std::time::Duration;

use ezq_core::engine::{
    Broadcasts as _, Dedupe, Engine as _, PauseTarget, Pauses as _, PublishOutcome,
};
use ezq_core::event::Pattern;
use ezq_core::message::{QueueName, Retention};
use ezq_pgmq::{DropOutcome, DropQueue, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

async fn drop_queue(engine: &PgmqEngine, queue: &QueueName, how: DropQueue) -> DropOutcome {
    engine.drop_queue(queue, how).await.unwrap()
}

#[tokio::test]
async fn an_empty_queue_is_dropped_and_one_that_holds_something_stays() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2"]).await;
    let held = drop_queue(&engine, &queue, DropQueue::IfEmpty).await;
    assert!(
        matches!(held, DropOutcome::HoldsEvents(held) if held.events.value == 2 && held.dead.is_zero()),
        "{held:?}"
    );

    let deliveries = lease(&engine, &queue).await;
    let settlements = deliveries
        .into_iter()
        .map(|one| (one.receipt, dead()))
        .collect();
    engine.settle(&queue, settlements).await.unwrap();
    let held = drop_queue(&engine, &queue, DropQueue::IfEmpty).await;
    assert!(
        matches!(held, DropOutcome::HoldsEvents(held) if held.dead.value == 2),
        "{held:?}"
    );

    let dropped = drop_queue(&engine, &queue, DropQueue::WithEvents).await;
    assert!(matches!(dropped, DropOutcome::Dropped(_)), "{dropped:?}");
    let left = format!(
        "SELECT count(*) FROM pg_class WHERE relname::text LIKE '%{queue}' OR relname::text LIKE '%{queue}_dlq'"
    );
    assert_eq!(scalar::<i64>(&mut connection().await, &left).await, 0);
    assert_eq!(
        drop_queue(&engine, &queue, DropQueue::IfEmpty).await,
        DropOutcome::NotFound
    );

    // The same handle makes it again.
    engine.ensure_queue(&queue).await.unwrap();
    let dropped = drop_queue(&engine, &queue, DropQueue::IfEmpty).await;
    assert!(
        matches!(dropped, DropOutcome::Dropped(held) if held.is_empty()),
        "{dropped:?}"
    );
}

#[tokio::test]
async fn archived_events_keep_a_queue_as_well() {
    let (engine, queue) = archiving(Retention::ARCHIVE).await;
    publish(&engine, &queue, &["1"]).await;
    acknowledge_all(&engine, &queue).await;
    let held = drop_queue(&engine, &queue, DropQueue::IfEmpty).await;
    assert!(
        matches!(held, DropOutcome::HoldsEvents(held) if held.archived.value == 1),
        "{held:?}"
    );
}

#[tokio::test]
async fn what_ezq_keeps_of_a_queue_goes_with_it() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let [gone, stays] = ["gone", "stays"].map(|name| QueueName::new(name).unwrap());
    for queue in [&gone, &stays] {
        engine.ensure_queue(queue).await.unwrap();
        let patterns = [Pattern::new("order.*").unwrap()];
        engine.subscribe("shop", queue, &patterns).await.unwrap();
        let target = PauseTarget::queue(queue.clone());
        engine.pause(&target, "Ada", None).await.unwrap();
        let outcomes = engine
            .publish(vec![keyed(queue, "7", "key")])
            .await
            .unwrap();
        assert!(
            matches!(outcomes[0], PublishOutcome::Stored(_)),
            "{outcomes:?}"
        );
    }
    let dropped = drop_queue(&engine, &gone, DropQueue::WithEvents).await;
    assert!(matches!(dropped, DropOutcome::Dropped(_)), "{dropped:?}");

    let mut admin = PgConnection::connect(&url).await.unwrap();
    for table in ["subscriptions", "controls", "dedupe"] {
        let left = format!("SELECT string_agg(queue, ',') FROM ezq.{table}");
        assert_eq!(
            scalar::<String>(&mut admin, &left).await,
            "stays",
            "{table}"
        );
    }
    // Its dedupe keys are free.
    engine.ensure_queue(&gone).await.unwrap();
    let dedupe = Dedupe::new("key", Duration::from_secs(3600), "7").unwrap();
    let again = message(&gone, "7").dedupe(dedupe);
    let outcomes = engine.publish(vec![again]).await.unwrap();
    assert!(
        matches!(outcomes[0], PublishOutcome::Stored(_)),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_queue_that_a_capture_feeds_stays() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = QueueName::new("users").unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    run(
        &mut admin,
        "CREATE TABLE public.users (id bigint PRIMARY KEY)",
    )
    .await;
    engine.capture("public.users", &queue).await.unwrap();

    let kept = drop_queue(&engine, &queue, DropQueue::WithEvents).await;
    let table = "public.users".to_owned();
    assert_eq!(kept, DropOutcome::Captured { table });
    run(&mut admin, "INSERT INTO public.users VALUES (7)").await;
    assert!(engine.captures().remove("public.users").await.unwrap());
    let dropped = drop_queue(&engine, &queue, DropQueue::WithEvents).await;
    assert!(matches!(dropped, DropOutcome::Dropped(_)), "{dropped:?}");
}

#[tokio::test]
async fn a_queue_in_use_by_another_transaction_is_not_waited_for_long() {
    let (engine, queue) = engine_and_queue().await;
    let mut holder = connection().await;
    run(&mut holder, &format!("BEGIN; SELECT FROM pgmq.q_{queue}")).await;
    let error = engine
        .drop_queue(&queue, DropQueue::WithEvents)
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    run(&mut holder, "ROLLBACK").await;
    let dropped = drop_queue(&engine, &queue, DropQueue::WithEvents).await;
    assert!(matches!(dropped, DropOutcome::Dropped(_)), "{dropped:?}");
}
