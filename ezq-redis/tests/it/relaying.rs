//! A relay from a real queue to a real server, of which either is killed.

use std::collections::HashMap;
use std::time::Duration;

use ezq::relay::Relay;
use ezq_redis::RedisSink;
use serde_json::Value;

use crate::processes::{Worker, until, waiting};
use crate::sending::entries;
use crate::server::Server;
use crate::workers::{RELAY, Step};

const EVENTS: u32 = 6_000;

pub(crate) fn stored(server: &Server) -> usize {
    redis::cmd("XLEN")
        .arg("outbox")
        .query(&mut server.connection())
        .unwrap()
}

#[ezq::test]
async fn relays_and_servers_that_are_killed_lose_no_event(db: ezq::testing::TestDatabase) {
    let test = "relaying::relays_and_servers_that_are_killed_lose_no_event";
    let Some(mut server) = Server::start(test, &[]) else {
        return;
    };
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    let steps: Vec<Step> = (0..EVENTS).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();

    for _ in 0..3 {
        let before = stored(&server);
        let relay = Worker::start(RELAY, &db.url(), &server.url());
        until("the relay sends", async || stored(&server) > before + 300).await;
        drop(relay);
    }
    let relay = Worker::start(RELAY, &db.url(), &server.url());
    for _ in 0..2 {
        let before = stored(&server);
        until("the relay sends", async || stored(&server) > before + 300).await;
        server.kill();
        server.restart();
    }
    until("the queue is empty", async || waiting(&app).await == 0).await;
    drop(relay);

    let mut copies = HashMap::<String, usize>::new();
    for fields in entries(&mut server.connection(), "outbox") {
        let event: Value = serde_json::from_str(&fields[1]).unwrap();
        let id = event["id"].as_str().unwrap();
        *copies.entry(id.to_owned()).or_default() += 1;
    }
    let entries: usize = copies.values().sum();
    let duplicates = entries - copies.len();
    eprintln!("{EVENTS} events, 3 kills of the relay, 2 of the server: {duplicates} duplicates");
    assert_eq!(copies.len(), usize::try_from(EVENTS).unwrap());
    app.assert_no_dead_letters();
}

#[ezq::test]
async fn a_server_that_is_out_of_memory_costs_no_attempt(db: ezq::testing::TestDatabase) {
    let test = "relaying::a_server_that_is_out_of_memory_costs_no_attempt";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let limit = |bytes: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg(&["SET", "maxmemory", bytes]);
        set.query::<()>(&mut server.connection()).unwrap();
    };
    limit("1");

    let sink = RedisSink::connect(&server.url()).await.unwrap();
    let relay = Relay::new("outbox", sink);
    let app = db
        .app(|app| app.queue("outbox").register(relay))
        .await
        .unwrap();
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();
    let consumer = app.consumer().spawn();
    // Long enough for several calls, each of which fails.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(waiting(&app).await, 2);

    limit("0");
    until("the queue is empty", async || waiting(&app).await == 0).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(stored(&server), 2);
}
