//! Partitioned queues in an application: consumed, stopped and published to as any queue, also while the
//! number of partitions changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq::engine::Engine as _;
use ezq::event::End;
use ezq::pgmq::PartitionOutcome;
use ezq::prelude::*;
use ezq::sqlx;
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::database::{CEILING, connection, run, scalar, server, unique};

#[derive(Debug, Clone, Serialize, Deserialize, ezq::Event)]
#[event(type = "test.step", key = "account")]
struct Step {
    account: u32,
    number: u32,
}

/// What was handled, by account, in the order of handling.
type Handled = Arc<Mutex<BTreeMap<u32, Vec<u32>>>>;

fn noting(handled: &Handled) -> Handler {
    let handled = Arc::clone(handled);
    Handler::on("note", move |step: Step| {
        let handled = Arc::clone(&handled);
        async move {
            let mut handled = handled.lock().unwrap();
            handled.entry(step.account).or_default().push(step.number);
        }
    })
}

async fn application(queue: &QueueName, partitions: u32, handlers: Vec<Handler>) -> Ezq {
    let mut builder = Ezq::builder()
        .database_url(server().await.url())
        .without_discovered_handlers()
        .queue(queue)
        .partitions(queue, partitions);
    for handler in handlers {
        builder = builder.register(handler);
    }
    builder.connect().await.unwrap()
}

#[tokio::test]
async fn an_end_stops_a_consumer_once_all_partitions_are_worked_off() {
    let queue = unique("ended");
    let handled = Handled::default();
    let ezq = application(&queue, 8, vec![noting(&handled)]).await;
    let steps = (0..2_000).map(|number| Step {
        account: number % 40,
        number,
    });
    ezq.publish_all(&steps.collect::<Vec<_>>()).await.unwrap();
    ezq.publish(&End::default()).await.unwrap();
    ezq.publish(&Step {
        account: 0,
        number: 9_999,
    })
    .await
    .unwrap();

    let report = ezq.consumer().run().await.unwrap();
    assert_eq!(report.counts.handled, 2_000, "{report}");
    assert_eq!(ezq.stats(&queue).await.unwrap().ready, 1);
    for (account, numbers) in &*handled.lock().unwrap() {
        assert!(numbers.is_sorted(), "{account}: {numbers:?}");
        assert_eq!(numbers.len(), 50, "{account}");
    }
}

#[tokio::test]
async fn an_end_for_all_stops_every_consumer_of_a_partitioned_queue() {
    let queue = unique("ended_all");
    let ezq = application(&queue, 4, Vec::new()).await;
    let consumers: Vec<_> = (0..3).map(|_| ezq.consumer().spawn()).collect();
    let is_begun = async || {
        let found = ezq.consumers().list().await.unwrap();
        found
            .iter()
            .filter(|one| one.consumer.queue == queue)
            .count()
            == 3
    };
    while !is_begun().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ezq.stop_all(&queue, None).await.unwrap();
    for consumer in consumers {
        tokio::time::timeout(CEILING, consumer)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_pause_holds_in_all_partitions() {
    let queue = unique("paused");
    let handled = Handled::default();
    let ezq = application(&queue, 4, vec![noting(&handled)]).await;
    ezq.pgmq().ensure_queue(&queue).await.unwrap();
    ezq.queues().pause(&queue).await.unwrap();
    let steps: Vec<Step> = (0..40).map(|account| Step { account, number: 0 }).collect();
    ezq.publish_all(&steps).await.unwrap();

    ezq.consumer().until_idle().run().await.unwrap();
    assert_eq!(handled.lock().unwrap().len(), 0);
    let found = ezq.queues().get(&queue).await.unwrap();
    assert!(found.is_paused() && found.partitions == 4 && found.ready.value == 40);
    ezq.queues().resume(&queue).await.unwrap();
    ezq.consumer().until_idle().run().await.unwrap();
    assert_eq!(handled.lock().unwrap().len(), 40);
}

/// Publishers and consumers, each with an idea of its own of the partitions, while an operator changes
/// their number again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_or_out_of_order_while_the_number_changes() {
    const ACCOUNTS: u32 = 20;
    const EACH: u32 = 150;
    let queue = unique("resized");
    let handled = Handled::default();
    let consuming = application(&queue, 1, vec![noting(&handled)]).await;
    let second = application(&queue, 1, vec![noting(&handled)]).await;
    let publishing = application(&queue, 1, Vec::new()).await;
    let consumers = [&consuming, &second].map(|ezq| ezq.consumer().concurrency(8).spawn());

    let published = async {
        for number in 0..EACH {
            let steps: Vec<Step> = (0..ACCOUNTS)
                .map(|account| Step { account, number })
                .collect();
            // In a transaction of its own, or by group commit.
            if number % 2 == 0 {
                let mut tx = publishing.pool().begin().await.unwrap();
                publishing
                    .publish_all(&steps)
                    .within(&mut tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            } else {
                publishing.publish_all(&steps).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let operator = application(&queue, 1, Vec::new()).await;
    operator.pgmq().ensure_queue(&queue).await.unwrap();
    let resized = async {
        for partitions in [2, 8, 3, 1, 16, 4].into_iter().cycle().take(18) {
            let changed = operator.pgmq().partition_queue(&queue, partitions).await;
            let outcome = changed.unwrap();
            let is_changed = matches!(outcome, PartitionOutcome::Partitioned { .. });
            assert!(is_changed, "{partitions}: {outcome:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(published, resized);

    let is_done = || {
        let handled = handled.lock().unwrap();
        handled.values().map(Vec::len).sum::<usize>() >= (ACCOUNTS * EACH) as usize
    };
    let waited = tokio::time::timeout(CEILING, async {
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap();
    for consumer in consumers {
        consumer.stop();
        let report = consumer.await.unwrap();
        assert_eq!(report.counts.lost, 0, "{report}");
    }

    let expected: Vec<u32> = (0..EACH).collect();
    for (account, numbers) in &*handled.lock().unwrap() {
        assert_eq!(*numbers, expected, "of account {account}");
    }
    let table = format!("SELECT count(*) FROM pgmq.q_{queue}");
    assert_eq!(
        scalar::<i64>(&mut connection(&server().await.url()).await, &table).await,
        0
    );
}

#[tokio::test]
async fn changes_broadcasts_and_transactions_go_to_a_partitioned_queue() {
    let queue = unique("fed");
    let ezq = application(&queue, 4, Vec::new()).await;
    let url = server().await.url();
    let mut admin = connection(&url).await;
    ezq.pgmq().ensure_queue(&queue).await.unwrap();

    run(
        &mut admin,
        &format!("CREATE TABLE {queue}_rows (id bigint PRIMARY KEY)"),
    )
    .await;
    ezq.capture(format!("{queue}_rows"))
        .queue(&queue)
        .await
        .unwrap();
    run(
        &mut admin,
        &format!("INSERT INTO {queue}_rows SELECT generate_series(1, 20)"),
    )
    .await;
    ezq.subscriptions()
        .unwrap()
        .add(&queue, "test.step")
        .await
        .unwrap();
    for account in 0..20 {
        ezq.broadcast(&Step { account, number: 0 }).await.unwrap();
    }

    let spread =
        format!("SELECT count(DISTINCT tableoid) = 4 AND count(*) > 20 FROM pgmq.q_{queue}");
    assert!(scalar::<bool>(&mut admin, &spread).await);
    sqlx::Connection::close(admin).await.unwrap();
}
