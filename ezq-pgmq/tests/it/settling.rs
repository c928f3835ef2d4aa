//! Settlements are fenced, per message, and atomic with the events they publish.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Engine, ExtendOutcome, Finished, LeaseRequest, Receipt, Settle, SettleOutcome, Token,
};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{HandlerMark, HandlerName, HandlerState, Progress};
use sqlx::Connection as _;

use crate::support::*;

#[tokio::test]
async fn refuses_every_settlement_of_a_message_handed_out_again() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;

    let late = lease_one(&engine, &queue).await;
    expire(&queue).await;

    let current = lease_one(&engine, &queue).await;
    let extra = message(&queue, "\"extra\"");
    let with_event = Settle::Ack {
        outgoing: vec![extra],
    };

    for settle in [
        ack(),
        retry(Duration::ZERO),
        dead(),
        Settle::Release,
        with_event,
    ] {
        let outcomes = engine
            .settle(&queue, vec![(late.receipt.clone(), settle)])
            .await
            .unwrap();
        assert!(
            matches!(outcomes[..], [SettleOutcome::LeaseLost]),
            "{outcomes:?}"
        );
    }

    let extended = engine
        .extend(
            &queue,
            &[late.receipt.clone(), current.receipt.clone()],
            TTL,
        )
        .await
        .unwrap();
    assert_eq!(
        extended,
        [ExtendOutcome::LeaseLost, ExtendOutcome::Extended]
    );

    // A late settlement is told from the current one, even in one batch.
    let both = vec![(late.receipt, ack()), (current.receipt, ack())];
    let outcomes = engine.settle(&queue, both).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [SettleOutcome::LeaseLost, SettleOutcome::Done]
    ));

    let stats = engine.stats(&queue).await.unwrap();
    assert_eq!(stats, ezq_core::engine::QueueStats::default());
}

#[tokio::test]
async fn refuses_receipts_of_another_engine_by_their_kind() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let own = lease_one(&engine, &queue).await.receipt;

    let other = MemoryEngine::new();
    other.ensure_queue(&queue).await.unwrap();
    other.publish(vec![message(&queue, "1")]).await.unwrap();
    let request = LeaseRequest::new(queue.clone(), 1, TTL);
    let theirs = other.lease(request).await.unwrap().deliveries.remove(0);
    let no_token = Receipt::new(own.message_id().clone(), Token::default());

    for foreign in [theirs.receipt, no_token] {
        let settles = [ack(), retry(Duration::ZERO), dead(), Settle::Release];
        let batch = settles.map(|settle| (foreign.clone(), settle));
        for outcome in engine.settle(&queue, batch.into()).await.unwrap() {
            let SettleOutcome::Failed { receipt, error } = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(error.kind(), ErrorKind::InvalidReceipt);
            assert_eq!(receipt, foreign);
        }

        let both = [foreign.clone(), own.clone()];
        let extended = engine.extend(&queue, &both, TTL).await.unwrap();
        assert_eq!(
            extended,
            [ExtendOutcome::LeaseLost, ExtendOutcome::Extended]
        );

        // Nothing of a transaction is stored that would settle by it, not even its event.
        let unit = engine.begin(&queue, None).await.unwrap();
        let finished = [own.clone(), foreign].map(Finished::new).into();
        let error = unit.finish(finished, vec![message(&queue, "2")]).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidReceipt);
    }

    let stats = engine.stats(&queue).await.unwrap();
    assert_eq!((stats.ready, stats.in_progress, stats.dead), (0, 1, 0));
    let outcomes = engine.settle(&queue, vec![(own, ack())]).await.unwrap();
    assert!(matches!(outcomes[..], [SettleOutcome::Done]));
}

#[tokio::test]
async fn refuses_receipts_of_a_queue_dropped_and_created_again() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;

    let old = lease_one(&engine, &queue).await;
    run(
        &mut connection().await,
        &format!("SELECT pgmq.drop_queue('{queue}')"),
    )
    .await;

    run(
        &mut connection().await,
        &format!("SELECT pgmq.create('{queue}')"),
    )
    .await;
    publish(&engine, &queue, &["2"]).await;

    let new = lease_one(&engine, &queue).await;
    let numbers = [&old, &new].map(|delivery| delivery.receipt.message_id().as_number());
    assert_eq!(numbers[0], numbers[1]);

    let extended = engine
        .extend(&queue, std::slice::from_ref(&old.receipt), TTL)
        .await
        .unwrap();
    assert_eq!(extended, [ExtendOutcome::LeaseLost]);

    let both = vec![(old.receipt, ack()), (new.receipt, ack())];
    let outcomes = engine.settle(&queue, both).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [SettleOutcome::LeaseLost, SettleOutcome::Done]
    ));
}

#[tokio::test]
async fn settles_one_delivery_once() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;

    let receipt = lease_one(&engine, &queue).await.receipt;
    let twice = vec![(receipt.clone(), retry(TTL)), (receipt.clone(), ack())];
    let outcomes = engine.settle(&queue, twice).await.unwrap();
    assert!(matches!(
        outcomes[..],
        [SettleOutcome::Done, SettleOutcome::LeaseLost]
    ));

    for settle in [ack(), retry(TTL), Settle::Release, dead()] {
        let outcomes = engine
            .settle(&queue, vec![(receipt.clone(), settle)])
            .await
            .unwrap();
        assert!(
            matches!(outcomes[..], [SettleOutcome::LeaseLost]),
            "{outcomes:?}"
        );
    }

    let extended = engine.extend(&queue, &[receipt], TTL).await.unwrap();
    assert_eq!(extended, [ExtendOutcome::LeaseLost]);
}

#[tokio::test]
async fn a_release_gives_back_the_old_place() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2"]).await;
    let first = lease(&engine, &queue).await.remove(0);
    let release = vec![(first.receipt.clone(), Settle::Release)];
    engine.settle(&queue, release).await.unwrap();
    let again = lease_one(&engine, &queue).await;
    assert_eq!((again.body.as_str(), again.due), ("1", first.due));
    assert_eq!((again.deliveries, again.unsettled_deliveries()), (2, 1));
}

#[tokio::test]
async fn a_retry_merges_marks_and_keeps_other_headers() {
    let (engine, queue) = engine_and_queue().await;
    let mut out = message(&queue, "1");
    out.headers.insert("mine", 1);
    engine.publish(vec![out]).await.unwrap();

    for name in ["a", "b"] {
        let delivery = lease_one(&engine, &queue).await;
        let mark = HandlerMark::new(HandlerState::Done).attempts(1);
        let progress = Progress::from_iter([(HandlerName::from(name), mark)]);
        let settle = Settle::Retry {
            after: Duration::ZERO,
            progress,
            outgoing: vec![message(&queue, "\"event\"")],
        };

        let outcomes = engine
            .settle(&queue, vec![(delivery.receipt, settle)])
            .await
            .unwrap();
        assert!(matches!(outcomes[..], [SettleOutcome::Done]));

        let event = lease(&engine, &queue).await;
        let event = event.into_iter().find(|d| d.body == "\"event\"").unwrap();
        engine
            .settle(&queue, vec![(event.receipt, ack())])
            .await
            .unwrap();
        expire(&queue).await;
    }

    let delivery = lease_one(&engine, &queue).await;
    let progress = Progress::from_headers(&delivery.headers);
    assert_eq!(progress.len(), 2);
    assert_eq!(delivery.headers.number("mine"), Some(1));
    assert_eq!(delivery.headers.returned(), 2);
}

#[tokio::test]
async fn one_settlement_that_cannot_be_written_harms_no_other() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2", "3"]).await;

    let deliveries = lease(&engine, &queue).await;
    let event = |body: &str| Settle::Ack {
        outgoing: vec![message(&queue, body)],
    };
    let settles = [event("4"), event("no json"), event("\"\\u0000\"")];
    let batch = deliveries.iter().map(|d| d.receipt.clone()).zip(settles);

    let outcomes = engine.settle(&queue, batch.collect()).await.unwrap();
    assert!(matches!(outcomes[0], SettleOutcome::Done), "{outcomes:?}");
    for (outcome, delivery) in outcomes.iter().zip(&deliveries).skip(1) {
        let SettleOutcome::Failed { receipt, error } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(
            (receipt, error.kind()),
            (&delivery.receipt, ErrorKind::InvalidEvent)
        );
    }

    // Their receipts are still valid.
    let rest = deliveries[1..].iter().map(|d| (d.receipt.clone(), ack()));
    let outcomes = engine.settle(&queue, rest.collect()).await.unwrap();
    assert!(outcomes.iter().all(|o| matches!(o, SettleOutcome::Done)));
    assert_eq!(lease_one(&engine, &queue).await.body, "4");
}

#[tokio::test]
async fn an_event_for_a_missing_queue_fails_its_settlement_alone() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;
    let target = unique("target");

    let receipt = lease_one(&engine, &queue).await.receipt;
    let settle = Settle::Ack {
        outgoing: vec![message(&target, "2")],
    };

    let mut outcomes = engine
        .settle(&queue, vec![(receipt, settle.clone())])
        .await
        .unwrap();
    let Some(SettleOutcome::Failed { receipt, error }) = outcomes.pop() else {
        panic!("{outcomes:?}");
    };
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    assert!(error.to_string().contains(target.as_str()), "{error}");
    engine.ensure_queue(&target).await.unwrap();

    let outcomes = engine
        .settle(&queue, vec![(receipt, settle)])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
    assert_eq!(lease_one(&engine, &target).await.body, "2");
}

#[tokio::test]
async fn concurrent_settlements_in_opposite_orders_do_not_deadlock() {
    let (engine, queue) = engine_and_queue().await;
    let other = engine_at(&server().await.url()).await;
    let bodies: Vec<&str> = std::iter::repeat_n("1", 100).collect();
    publish(&engine, &queue, &bodies).await;

    for round in 0..20 {
        let deliveries = lease(&engine, &queue).await;
        assert_eq!(deliveries.len(), 100, "round {round}");

        let forth: Vec<_> = deliveries
            .iter()
            .map(|d| (d.receipt.clone(), retry(Duration::ZERO)))
            .collect();
        let receipts: Vec<_> = deliveries.iter().rev().map(|d| d.receipt.clone()).collect();
        let back: Vec<_> = receipts
            .iter()
            .map(|receipt| (receipt.clone(), Settle::Release))
            .collect();

        let (first, second, third) = tokio::join!(
            engine.settle(&queue, forth),
            other.settle(&queue, back),
            engine.extend(&queue, &receipts, Duration::from_millis(1)),
        );

        // Each delivery is settled by one of the two.
        for outcomes in first.unwrap().iter().zip(second.unwrap().iter().rev()) {
            let one = matches!(
                outcomes,
                (SettleOutcome::Done, SettleOutcome::LeaseLost)
                    | (SettleOutcome::LeaseLost, SettleOutcome::Done)
            );
            assert!(one, "{outcomes:?}");
        }

        third.unwrap();
        expire(&queue).await;
    }

    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(scalar::<i64>(&mut connection().await, sql).await, 0);
}

#[tokio::test]
async fn a_renewal_of_a_locked_row_is_busy_and_waits_for_nothing() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2"]).await;

    let receipts: Vec<_> = lease(&engine, &queue)
        .await
        .into_iter()
        .map(|d| d.receipt)
        .collect();

    let mut own = connection().await;
    let mut tx = own.begin().await.unwrap();
    let id = receipts[0].message_id().as_number().unwrap();
    run(
        &mut tx,
        &format!("SELECT 1 FROM pgmq.q_{queue} WHERE msg_id = {id} FOR UPDATE"),
    )
    .await;

    let outcomes = engine.extend(&queue, &receipts, TTL).await.unwrap();
    assert_eq!(outcomes, [ExtendOutcome::Busy, ExtendOutcome::Extended]);

    tx.rollback().await.unwrap();
    let outcomes = engine.extend(&queue, &receipts, TTL).await.unwrap();
    assert_eq!(outcomes, [ExtendOutcome::Extended, ExtendOutcome::Extended]);
}
