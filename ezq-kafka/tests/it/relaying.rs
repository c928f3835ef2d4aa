//! A relay from a real queue to a cluster, of which either is cut off.

use std::collections::HashMap;
use std::time::Duration;

use ezq::relay::Relay;
use ezq::testing::{TestDatabase, TestEzq};
use ezq_kafka::KafkaSink;

use crate::processes::{Worker, until, waiting};
use crate::records::{count, ids};
use crate::server::{Cluster, Program, Server};
use crate::workers::{RELAY, Step};

const EVENTS: u32 = 6_000;

/// An application with so many events in its outbox.
async fn publish(db: &TestDatabase, count: u32) -> TestEzq {
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    let steps: Vec<Step> = (0..count).map(Step::new).collect();
    app.publish_all(&steps).await.unwrap();
    app
}

/// Checks that each event is in the topic, and prints how many are there twice.
fn assert_nothing_is_lost(brokers: &str, faults: &str) {
    let mut copies = HashMap::<String, usize>::new();
    for id in ids(brokers, "outbox") {
        *copies.entry(id).or_default() += 1;
    }
    let records: usize = copies.values().sum();
    let duplicates = records - copies.len();
    eprintln!("{EVENTS} events, {faults}: {duplicates} duplicates");
    assert_eq!(copies.len(), usize::try_from(EVENTS).unwrap());
}

#[ezq::test]
async fn relays_that_are_killed_and_clusters_that_are_cut_off_lose_no_event(db: TestDatabase) {
    let cluster = Cluster::start();
    cluster.create_topic("outbox", 4);
    let brokers = cluster.brokers();
    let app = publish(&db, EVENTS).await;

    for _ in 0..3 {
        let before = count(&brokers, "outbox");
        let relay = Worker::start(RELAY, &db.url(), &cluster.url());
        until("the relay sends", async || {
            count(&brokers, "outbox") > before + 300
        })
        .await;
        drop(relay);
    }
    let relay = Worker::start(RELAY, &db.url(), &cluster.url());
    for _ in 0..2 {
        let before = count(&brokers, "outbox");
        until("the relay sends", async || {
            count(&brokers, "outbox") > before + 300
        })
        .await;
        cluster.go_down();
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.come_up();
    }
    until("the queue is empty", async || waiting(&app).await == 0).await;
    drop(relay);

    assert_nothing_is_lost(&brokers, "3 kills of the relay, 2 outages of all brokers");
    app.assert_no_dead_letters();
}

#[ezq::test]
async fn a_broker_that_ended_and_starts_again_gets_what_came_meanwhile(db: TestDatabase) {
    let test = "relaying::a_broker_that_ended_and_starts_again_gets_what_came_meanwhile";
    let Some(mut server) = Server::start(test, Program::Noida) else {
        return;
    };
    let app = publish(&db, EVENTS / 2).await;
    let relay = Worker::start(RELAY, &db.url(), &server.url());
    until("the queue is empty", async || waiting(&app).await == 0).await;

    // It forgets what it stored in the moment in which it ends, so that moment is quiet.
    server.stop();
    let steps: Vec<Step> = (EVENTS / 2..EVENTS).map(Step::new).collect();
    app.publish_all(&steps).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.restart();
    until("the queue is empty", async || waiting(&app).await == 0).await;
    drop(relay);
    assert_nothing_is_lost(&server.brokers(), "a restart of the broker");
    app.assert_no_dead_letters();
}

#[ezq::test]
async fn a_cluster_that_is_absent_at_the_start_costs_no_attempt(db: TestDatabase) {
    let cluster = Cluster::start();
    cluster.go_down();
    let sink = KafkaSink::connect_lazily(&cluster.url()).unwrap();
    let relay = Relay::new("outbox", sink);
    let app = db.app(|app| app.queue("outbox").register(relay)).await;
    let app = app.unwrap();
    app.publish_all(&[Step::new(0), Step::new(1)])
        .await
        .unwrap();
    let consumer = app.consumer().spawn();
    // Long enough for a call that fails, and another that has begun.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(waiting(&app).await, 2);

    cluster.come_up();
    until("the queue is empty", async || waiting(&app).await == 0).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(count(&cluster.brokers(), "outbox"), 2);
}
