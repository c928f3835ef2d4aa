//! A relay from a real queue to a real server, of which either is killed.

use std::collections::HashMap;

use ezq::relay::Relay;
use ezq::testing::TestDatabase;
use ezq_nats::NatsSink;

use crate::processes::{Worker, until, waiting};
use crate::sending::messages;
use crate::server::{Server, Version};
use crate::workers::{RELAY, Step};

const EVENTS: u32 = 4_000;

async fn stored(context: &async_nats::jetstream::Context) -> u64 {
    let mut stream = context.get_stream("OUTBOX").await.unwrap();
    stream.info().await.unwrap().state.messages
}

async fn kill_both(test: &str, version: Version, db: TestDatabase) {
    let Some(mut server) = Server::start(test, version, "") else {
        return;
    };
    let sink = NatsSink::connect(&server.url()).await.unwrap();
    sink.stream("OUTBOX", &["outbox"]).await.unwrap();
    let context = server.jetstream().await;
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    let steps: Vec<Step> = (0..EVENTS).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();

    for _ in 0..3 {
        let before = stored(&context).await;
        let relay = Worker::start(RELAY, &db.url(), &server.url());
        until("the relay sends", async || {
            stored(&context).await > before + 200
        })
        .await;
        drop(relay);
    }
    let relay = Worker::start(RELAY, &db.url(), &server.url());
    for _ in 0..2 {
        // The queue tells how far the relay is, whatever the server's clients see of it.
        let before = waiting(&app).await;
        until("the relay sends", async || {
            waiting(&app).await + 200 < before
        })
        .await;
        server.kill();
        server.restart();
    }
    until("the queue is empty", async || waiting(&app).await == 0).await;
    drop(relay);
    until("the server is back", async || {
        context.get_stream("OUTBOX").await.is_ok()
    })
    .await;

    let mut copies = HashMap::<String, usize>::new();
    for message in messages(&context, "OUTBOX").await {
        let id = message.headers.get("ce-id").unwrap().to_string();
        *copies.entry(id).or_default() += 1;
    }
    let duplicates = copies.values().sum::<usize>() - copies.len();
    eprintln!(
        "{version:?}: {EVENTS} events, 3 kills of the relay, 2 of the server: {duplicates} duplicates"
    );
    assert_eq!(copies.len(), usize::try_from(EVENTS).unwrap());
    // The stream drops what is sent again within two minutes.
    assert_eq!(duplicates, 0);
    app.assert_no_dead_letters();
}

#[ezq::test]
async fn relays_and_servers_that_are_killed_lose_no_event(db: TestDatabase) {
    let test = "relaying::relays_and_servers_that_are_killed_lose_no_event";
    kill_both(test, Version::V2_15, db).await;
}

#[ezq::test]
async fn relays_and_servers_of_the_older_version_lose_no_event(db: TestDatabase) {
    let test = "relaying::relays_and_servers_of_the_older_version_lose_no_event";
    kill_both(test, Version::V2_9, db).await;
}

#[ezq::test]
async fn a_full_stream_costs_no_attempt(db: TestDatabase) {
    let test = "relaying::a_full_stream_costs_no_attempt";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let limited = |messages| async_nats::jetstream::stream::Config {
        name: "OUTBOX".into(),
        subjects: vec!["outbox".into()],
        max_messages: messages,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    let context = server.jetstream().await;
    context.create_stream(limited(1)).await.unwrap();

    let sink = NatsSink::connect(&server.url()).await.unwrap();
    let app = db
        .app(|app| app.queue("outbox").register(Relay::new("outbox", sink)))
        .await
        .unwrap();
    let steps: Vec<Step> = (0..3).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
    let consumer = app.consumer().spawn();
    until("one is stored", async || stored(&context).await == 1).await;
    until("the others wait", async || waiting(&app).await == 2).await;

    context.update_stream(limited(-1)).await.unwrap();
    until("the queue is empty", async || waiting(&app).await == 0).await;
    consumer.stop();
    consumer.await.unwrap();
    assert_eq!(stored(&context).await, 3);
}
