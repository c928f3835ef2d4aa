//! What the shared suite cannot see: the clock, the record of what was published, dropped queues.

use std::time::Duration;

use super::MemoryEngine;
use crate::engine::{
    Browse as _, Dedupe, Due, Engine as _, ExtendOutcome, LeaseRequest, Leased, Outgoing,
    PublishOutcome, Receipt, Settle, SettleOutcome,
};
use crate::error::ErrorKind;
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;
use crate::message::settlement::Progress;

async fn engine() -> (MemoryEngine, QueueName) {
    let engine = MemoryEngine::new();
    let queue = QueueName::new("orders").unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue)
}

fn message(queue: &QueueName, body: &str, due: Due) -> Outgoing {
    let queue = queue.clone();
    let body = body.to_owned();
    let headers = Headers::new();

    Outgoing {
        queue,
        body,
        headers,
        due,
        dedupe: None,
    }
}

async fn publish(engine: &MemoryEngine, queue: &QueueName, due: Due) {
    let outcomes = engine.publish(vec![message(queue, "{}", due)]).await;
    assert!(matches!(
        outcomes.unwrap().as_slice(),
        [PublishOutcome::Stored(_)]
    ));
}

async fn lease(engine: &MemoryEngine, queue: &QueueName, ttl: Duration) -> Leased {
    let request = LeaseRequest::new(queue.clone(), 100, ttl);
    engine.lease(request).await.unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_paused_clock_moves_the_engine_and_nothing_else_does() {
    let (engine, _) = engine().await;
    let start = engine.now();
    assert_eq!(engine.now(), start);
    tokio::time::advance(MINUTE).await;
    assert_eq!((engine.now() - start).to_std().unwrap(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_delay_ends_to_the_millisecond() {
    let (engine, queue) = engine().await;
    publish(&engine, &queue, Due::After(MINUTE)).await;
    tokio::time::advance(MINUTE - MILLISECOND).await;
    let early = lease(&engine, &queue, MINUTE).await;
    assert!(early.deliveries.is_empty());
    assert_eq!(early.next_due, Some(MILLISECOND));
    tokio::time::advance(MILLISECOND).await;
    assert_eq!(lease(&engine, &queue, MINUTE).await.deliveries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_to_the_millisecond() {
    let (engine, queue) = engine().await;
    publish(&engine, &queue, Due::Now).await;
    assert_eq!(lease(&engine, &queue, MINUTE).await.deliveries.len(), 1);
    tokio::time::advance(MINUTE - MILLISECOND).await;
    assert!(lease(&engine, &queue, MINUTE).await.deliveries.is_empty());
    tokio::time::advance(MILLISECOND).await;
    let again = lease(&engine, &queue, MINUTE).await;
    assert_eq!(again.deliveries[0].deliveries, 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_readable_at_once_and_in_order_while_the_clock_stands() {
    let (engine, queue) = engine().await;
    let bodies: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let batch = bodies
        .iter()
        .map(|body| message(&queue, body, Due::Now))
        .collect();
    engine.publish(batch).await.unwrap();

    let leased = lease(&engine, &queue, MINUTE).await;
    let read: Vec<_> = leased.deliveries.iter().map(|d| d.body.clone()).collect();
    assert_eq!(read, bodies);
}

#[tokio::test(start_paused = true)]
async fn an_archive_keeps_as_long_as_is_said_and_no_longer() {
    let (engine, queue) = engine().await;
    let id = |n: i64| format!("orders:{n}");
    engine
        .set_retention(&queue, Retention::archive_for(MINUTE))
        .unwrap();

    for n in 1..3 {
        let body = format!("{{\"_type\": \"Paid\", \"n\": {n}}}");
        engine
            .publish(vec![message(&queue, &body, Due::Now)])
            .await
            .unwrap();

        let receipt = lease(&engine, &queue, MINUTE).await.deliveries[0]
            .receipt
            .clone();
        let ack = Settle::Ack {
            outgoing: Vec::new(),
        };
        engine.settle(&queue, vec![(receipt, ack)]).await.unwrap();
        tokio::time::advance(MINUTE / 2).await;
    }

    assert_eq!(engine.history(&id(1), None).await.unwrap().copies.len(), 1);
    tokio::time::advance(MILLISECOND).await;
    assert!(engine.history(&id(1), None).await.unwrap().is_empty());
    assert_eq!(engine.history(&id(2), None).await.unwrap().copies.len(), 1);
}

#[tokio::test]
async fn records_what_was_published_by_settlements_too() {
    let (engine, queue) = engine().await;
    publish(&engine, &queue, Due::Now).await;

    let receipt = lease(&engine, &queue, MINUTE).await.deliveries[0]
        .receipt
        .clone();
    let ack = Settle::Ack {
        outgoing: vec![message(&queue, "2", Due::Now)],
    };
    engine.settle(&queue, vec![(receipt, ack)]).await.unwrap();

    let bodies: Vec<_> = engine
        .published(&queue)
        .into_iter()
        .map(|p| p.message.body)
        .collect();
    assert_eq!(bodies, ["{}", "2"]);
    assert_eq!(engine.all_published().len(), 2);

    engine.forget_published();
    assert!(engine.published(&queue).is_empty());
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 1);
}

#[tokio::test]
async fn a_receipt_of_a_dropped_queue_is_void_in_the_next_one_of_its_name() {
    let (engine, queue) = engine().await;
    publish(&engine, &queue, Due::Now).await;

    let stale = lease(&engine, &queue, MINUTE).await.deliveries[0]
        .receipt
        .clone();
    assert!(engine.remove_queue(&queue));
    let gone = engine.stats(&queue).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::QueueMissing);

    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, Due::Now).await;
    let fresh = lease(&engine, &queue, MINUTE).await.deliveries[0]
        .receipt
        .clone();
    assert_eq!(stale.message_id(), fresh.message_id());

    let retry = Settle::Retry {
        after: MINUTE,
        progress: Progress::default(),
        outgoing: Vec::new(),
    };

    let outcomes = engine.settle(&queue, vec![(stale, retry)]).await.unwrap();
    assert!(matches!(outcomes.as_slice(), [SettleOutcome::LeaseLost]));
}

#[tokio::test]
async fn waiting_for_a_queue_survives_its_being_dropped() {
    let (engine, queue) = engine().await;
    let wakeups = engine.wakeups(&queue).await.unwrap().unwrap();
    assert!(engine.remove_queue(&queue));
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, Due::Now).await;
    assert!(wakeups.has_changed().unwrap());
}

#[tokio::test]
async fn refuses_a_body_over_its_limit_and_stores_the_rest() {
    let engine = MemoryEngine::with_body_limit(3);
    let queue = QueueName::new("orders").unwrap();
    engine.ensure_queue(&queue).await.unwrap();

    let batch = ["123", "1234", "1"].map(|body| message(&queue, body, Due::Now));
    let outcomes = engine.publish(batch.to_vec()).await.unwrap();
    let [
        PublishOutcome::Stored(_),
        PublishOutcome::Failed(error),
        PublishOutcome::Stored(_),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(engine.capabilities().max_body, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_queue_takes_its_keys_along_and_an_ended_one_is_forgotten() {
    let (engine, queue) = engine().await;
    let keyed = |key: &str| {
        let dedupe = Dedupe::new(key, MINUTE, "1").unwrap();
        vec![Outgoing {
            dedupe: Some(dedupe),
            ..message(&queue, "{}", Due::Now)
        }]
    };

    let stored = async |key: &str| {
        let outcomes = engine.publish(keyed(key)).await.unwrap();
        matches!(outcomes.as_slice(), [PublishOutcome::Stored(_)])
    };
    assert!(stored("a").await && !stored("a").await);
    assert!(engine.remove_queue(&queue));

    engine.ensure_queue(&queue).await.unwrap();
    assert!(stored("a").await);

    tokio::time::advance(MINUTE).await;
    assert!(stored("b").await);
    let store = format!("{:?}", engine.store().queue(&queue).unwrap().dedupe);
    assert!(
        store.contains("\"b\"") && !store.contains("\"a\""),
        "{store}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_receipt_of_another_engine_is_refused_by_its_kind() {
    let (engine, queue) = engine().await;
    publish(&engine, &queue, Due::Now).await;
    let own = lease(&engine, &queue, MINUTE).await.deliveries.remove(0);

    // The same queue, message and delivery, on a second engine.
    let (other, _) = self::engine().await;
    publish(&other, &queue, Due::Now).await;
    let theirs = lease(&other, &queue, MINUTE).await.deliveries.remove(0);
    let id = MessageId::Dated {
        number: 1,
        stored_at: engine.now(),
    };
    let dated = Receipt::new(id, own.receipt.token());

    for foreign in [theirs.receipt, dated] {
        let settlement = (foreign.clone(), Settle::Release);
        let outcomes = engine.settle(&queue, vec![settlement]).await.unwrap();
        let [SettleOutcome::Failed { receipt, error }] = outcomes.as_slice() else {
            panic!("{outcomes:?}");
        };
        assert_eq!(error.kind(), ErrorKind::InvalidReceipt);
        assert_eq!(receipt, &foreign);

        let extended = engine.extend(&queue, &[foreign], MINUTE).await.unwrap();
        assert_eq!(extended, [ExtendOutcome::LeaseLost]);
    }

    let settlement = (own.receipt, Settle::Release);
    let outcomes = engine.settle(&queue, vec![settlement]).await.unwrap();
    assert!(matches!(outcomes.as_slice(), [SettleOutcome::Done]));
}

#[tokio::test]
async fn messages_are_read_by_number_without_being_leased() {
    let (engine, queue) = engine().await;
    assert_eq!(engine.newest(&queue).await.unwrap(), None);
    for _ in 0..3 {
        publish(&engine, &queue, Due::Now).await;
    }
    lease(&engine, &queue, Duration::from_secs(30)).await;

    assert_eq!(engine.newest(&queue).await.unwrap(), Some(3));
    let found = engine.numbered_after(&queue, 1, &[2], 10).await.unwrap();
    let numbers: Vec<_> = found
        .iter()
        .map(|copy| copy.message_id.as_number())
        .collect();
    assert_eq!((numbers, found[0].deliveries), (vec![Some(3)], 1));
}
