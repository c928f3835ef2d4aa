//! Ingests of a topic into a real queue, of which any is killed.

use std::time::Duration;

use ezq::engine::Engine as _;
use ezq::message::QueueName;
use ezq::sqlx::query_as;
use ezq::testing::{TestDatabase, TestEzq};

use crate::processes::{Worker, until};
use crate::reading::{produce, producer};
use crate::server::Cluster;
use crate::workers::ingest;

const PARTITIONS: i32 = 4;
const EACH: u32 = 5_000;

/// How many rows the queue has, and how many of them are different messages.
pub(crate) async fn rows(app: &TestEzq) -> (u64, u64) {
    let sql = "select count(*), count(distinct message ->> 'id') from pgmq.q_orders";
    let (all, distinct): (i64, i64) = query_as(sql).fetch_one(app.pool()).await.unwrap();
    (all.unsigned_abs(), distinct.unsigned_abs())
}

#[ezq::test]
async fn ingests_that_are_added_and_killed_store_each_message_once(db: TestDatabase) {
    let cluster = Cluster::start();
    cluster.create_topic("orders", PARTITIONS);
    let app = db.app(|app| app.queue("orders")).await.unwrap();
    app.pgmq()
        .ensure_queue(&QueueName::new("orders").unwrap())
        .await
        .unwrap();
    let producer = producer(&cluster.brokers());
    for partition in 0..PARTITIONS {
        produce(&producer, "orders", partition, 0..EACH);
    }
    let all = u64::from(EACH) * 4;
    let start = || Worker::start(&ingest("orders"), &db.url(), &cluster.url());

    let first = start();
    until("the first stores", async || rows(&app).await.0 > 1_000).await;
    // A second one gets half of the partitions, and then all of them.
    let second = start();
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(first);
    let third = start();
    cluster.go_down();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.come_up();
    for partition in 0..PARTITIONS {
        produce(&producer, "orders", partition, EACH..EACH + 250);
    }
    let all = all + 1_000;
    until("all is stored", async || rows(&app).await.0 >= all).await;
    // What is stored twice would come by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop((second, third));

    let (rows, distinct) = rows(&app).await;
    eprintln!("{all} messages, 3 ingests, 1 kill, 1 outage: {rows} rows of {distinct} messages");
    assert_eq!((rows, distinct), (all, all));
    app.assert_no_dead_letters();
}
