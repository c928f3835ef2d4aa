//! The server stops, returns, crashes; queues vanish. The engine recovers by itself.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Engine, ExtendOutcome, LeaseRequest, Receipt, Settle, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

fn request(queue: &QueueName, ttl: Duration) -> LeaseRequest {
    LeaseRequest::new(queue.clone(), 10, ttl).keys(10)
}

#[tokio::test]
async fn goes_on_after_a_restart_and_after_a_crash() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let engine = engine_at(&server.url()).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    let mut wakeups = engine.wakeups(&queue).await.unwrap().unwrap();

    for immediate in [false, true] {
        publish(&engine, &queue, &["1"]).await;

        let delivery = lease_one(&engine, &queue).await;
        wakeups.mark_unchanged();
        server.stop(immediate).await.unwrap();

        for error in [
            engine.lease(request(&queue, TTL)).await.unwrap_err(),
            engine
                .extend(&queue, std::slice::from_ref(&delivery.receipt), TTL)
                .await
                .unwrap_err(),
            engine
                .settle(&queue, vec![(delivery.receipt.clone(), ack())])
                .await
                .unwrap_err(),
            engine
                .publish(vec![message(&queue, "2")])
                .await
                .unwrap_err(),
            engine.health_check().await.unwrap_err(),
        ] {
            assert!(error.is_transient(), "{error:?}");
        }

        server.start_again().await.unwrap();
        let receipts = [delivery.receipt.clone()];
        let extended = until_it_works(|| engine.extend(&queue, &receipts, TTL)).await;
        assert_eq!(extended, [ExtendOutcome::Extended]);

        let settle = || engine.settle(&queue, vec![(delivery.receipt.clone(), ack())]);
        let outcomes = until_it_works(settle).await;
        assert!(matches!(outcomes[..], [SettleOutcome::Done]));

        until_it_works(|| engine.publish(vec![message(&queue, "2")])).await;
        let leased = until_it_works(|| engine.lease(request(&queue, TTL))).await;
        let again = leased.deliveries.into_iter().next().unwrap();
        engine
            .settle(&queue, vec![(again.receipt, ack())])
            .await
            .unwrap();
        tokio::time::timeout(Duration::from_secs(10), wakeups.changed())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn holders_may_renew_before_others_claim_after_a_restart() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let grace = Duration::from_secs(600);
    let config = PgmqConfig::url(&server.url()).unwrap().restart_grace(grace);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["\"held\""]).await;

    let held = lease_for(&engine, &queue, Duration::from_millis(1))
        .await
        .remove(0);
    server.stop(true).await.unwrap();
    server.start_again().await.unwrap();

    // A message that was never delivered waits for no grace.
    until_it_works(|| engine.publish(vec![message(&queue, "\"new\"")])).await;
    let leased = until_it_works(|| engine.lease(request(&queue, TTL))).await;
    let bodies: Vec<_> = leased.deliveries.iter().map(|d| d.body.as_str()).collect();
    assert_eq!(bodies, ["\"new\""]);

    let leased = engine.lease(request(&queue, TTL)).await.unwrap();
    let next_due = leased.next_due.unwrap();
    assert!(
        leased.deliveries.is_empty() && next_due > Duration::from_secs(20),
        "{next_due:?}"
    );

    let receipts = [held.receipt];
    let extended = until_it_works(|| engine.extend(&queue, &receipts, TTL)).await;
    assert_eq!(extended, [ExtendOutcome::Extended]);
}

#[tokio::test]
async fn a_cut_connection_is_opened_again() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let name = unique("app");
    let config = PgmqConfig::url(&server().await.url()).unwrap();
    let engine = PgmqEngine::connect(config.application_name(name.as_str()))
        .await
        .unwrap();

    let delivery = lease_one(&engine, &queue).await;
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
         WHERE application_name = '{name}'"
    );
    assert!(scalar::<i64>(&mut connection().await, &sql).await >= 2);
    until_it_works(|| engine.lease(request(&queue, TTL))).await;

    let settle = || engine.settle(&queue, vec![(delivery.receipt.clone(), ack())]);
    let outcomes = until_it_works(settle).await;
    assert!(matches!(outcomes[..], [SettleOutcome::Done]));
    until_it_works(|| engine.stats(&queue)).await;
}

#[tokio::test]
async fn a_receipt_from_before_a_crash_of_an_unlogged_queue_holds_no_message_of_after() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let engine = engine_at(&server.url()).await;
    let queue = unique("q");
    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    run(&mut own, &format!("SELECT pgmq.create_unlogged('{queue}')")).await;
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["\"before\""]).await;

    let before = lease_one(&engine, &queue).await.receipt;
    server.stop(true).await.unwrap();
    server.start_again().await.unwrap();

    // The crash has emptied the table and reset its ids.
    until_it_works(|| engine.publish(vec![message(&queue, "\"after\"")])).await;
    let leased = until_it_works(|| engine.lease(request(&queue, TTL))).await;
    let after = leased.deliveries.into_iter().next().unwrap().receipt;
    assert_eq!(
        after.message_id().as_number(),
        before.message_id().as_number()
    );
    // The third word is the due time, which no statement compares.
    let compared = |receipt: &Receipt| {
        let [fence, rel, _due] = receipt.token().words().unwrap();
        (fence, rel)
    };
    assert_eq!(
        compared(&after),
        compared(&before),
        "only the time tells them apart"
    );

    let receipts = [before.clone(), after.clone()];
    let extended = until_it_works(|| engine.extend(&queue, &receipts, TTL)).await;
    assert_eq!(
        extended,
        [ExtendOutcome::LeaseLost, ExtendOutcome::Extended]
    );

    for settle in [ack(), retry(Duration::ZERO), dead(), Settle::Release] {
        let late = || engine.settle(&queue, vec![(before.clone(), settle.clone())]);
        let outcomes = until_it_works(late).await;
        assert!(
            matches!(outcomes[..], [SettleOutcome::LeaseLost]),
            "{settle:?}: {outcomes:?}"
        );
    }

    let outcomes = engine.settle(&queue, vec![(after, ack())]).await.unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_dropped_queue_is_told_and_created_again() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;

    let receipt = lease_one(&engine, &queue).await.receipt;
    let drop_both = format!(
        "SELECT pgmq.drop_queue('{queue}'); SELECT pgmq.drop_queue('{}')",
        queue.dead_letters()
    );
    run(&mut connection().await, &drop_both).await;

    for error in [
        engine.lease(request(&queue, TTL)).await.unwrap_err(),
        engine
            .settle(&queue, vec![(receipt.clone(), ack())])
            .await
            .unwrap_err(),
        engine
            .settle(&queue, vec![(receipt.clone(), dead())])
            .await
            .unwrap_err(),
        engine
            .extend(&queue, std::slice::from_ref(&receipt), TTL)
            .await
            .unwrap_err(),
        engine
            .publish(vec![message(&queue, "2")])
            .await
            .unwrap_err(),
        engine.stats(&queue).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::QueueMissing, "{error:?}");
    }

    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["2"]).await;
    assert_eq!(lease_one(&engine, &queue).await.body, "2");
    let outcomes = engine.settle(&queue, vec![(receipt, ack())]).await.unwrap();
    assert!(matches!(outcomes[..], [SettleOutcome::LeaseLost]));
}

#[tokio::test]
async fn a_dropped_call_leaves_the_engine_working() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    for _ in 0..5 {
        let call = engine.lease(request(&queue, Duration::from_millis(1)));
        let _ = tokio::time::timeout(Duration::from_micros(50), call).await;
    }
    until_it_works(|| engine.lease(request(&queue, TTL))).await;
}
