//! Three servers that keep streams together, of which one after the other is killed.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use ezq::Error;
use ezq::engine::Engine as _;
use ezq::testing::TestDatabase;
use ezq_nats::{JetStreamEngine, NatsConfig};

use crate::faults::{self, LEASE, Ledger, Ordered, close, queue, until_empty};
use crate::processes::{Worker, until, waiting};
use crate::sending::messages;
use crate::server::Server;
use crate::workers::{RELAY, Step};

/// Events of a round in which a server is killed.
const EVENTS: u32 = 500;
/// The stream of the engine's queue, and that to which the outbox is relayed.
const STREAMS: [&str; 2] = ["ezq_work", "OUTBOX"];

/// Waits until all servers have all of a stream. Returns the place of the one that leads it.
async fn leader(context: &Context, stream: &str) -> usize {
    let mut place = None;
    until("all servers have the stream", async || {
        let found = context.get_stream(stream).await;
        let cluster = found
            .ok()
            .and_then(|found| found.cached_info().cluster.clone());
        let Some(cluster) = cluster else {
            return false;
        };
        let number = cluster
            .leader
            .as_deref()
            .and_then(|name| name.strip_prefix("node-"));
        place = number.map(|number| number.parse().unwrap());
        place.is_some()
            && cluster.replicas.len() == 2
            && cluster.replicas.iter().all(|one| one.current)
    })
    .await;
    place.unwrap()
}

/// The engine of the test, and the streams that three servers keep.
async fn prepare(urls: &str) -> (JetStreamEngine, Context) {
    let mut engine = None;
    until("the servers have elected a leader", async || {
        let config = NatsConfig::new(urls).unwrap();
        let builder = JetStreamEngine::builder(config).ack_wait(LEASE).replicas(3);
        engine = builder.connect().await.ok();
        engine.is_some()
    })
    .await;
    let engine = engine.unwrap();
    until("the queue is made", async || {
        engine.ensure_queue(&queue()).await.is_ok()
    })
    .await;

    let servers: Vec<&str> = urls.split(',').collect();
    let context = jetstream::new(async_nats::connect(servers).await.unwrap());
    until("the stream is made", async || {
        let config = jetstream::stream::Config {
            name: "OUTBOX".into(),
            subjects: vec!["outbox".into()],
            num_replicas: 3,
            ..Default::default()
        };
        context.get_or_create_stream(config).await.is_ok()
    })
    .await;
    (engine, context)
}

#[ezq::test]
async fn leaders_that_are_killed_lose_no_event(db: TestDatabase) {
    let test = "cluster::leaders_that_are_killed_lose_no_event";
    let Some(mut servers) = Server::cluster(test, 3, "") else {
        return;
    };
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let urls = urls.join(",");
    let (engine, context) = prepare(&urls).await;
    let ledger = Ledger::new("cluster");
    let orders = faults::app(engine.clone(), &ledger.0);
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    let _workers = [(), ()].map(|()| faults::Worker::start(&urls, &ledger));
    let relay = Worker::start(RELAY, &db.url(), &urls);

    let mut published = 0;
    for stream in STREAMS.into_iter().cycle().take(2) {
        let leader = leader(&context, stream).await;
        let numbers = published..published + EVENTS;
        let ordered: Vec<Ordered> = numbers.clone().map(|n| Ordered { n: n + 1 }).collect();
        // While no server leads, a publisher gets an error, and tries again as it likes.
        until("all are published", async || {
            let published = orders.publish_all(&ordered).await;
            let error = published.err().map(Error::from);
            assert!(error.as_ref().is_none_or(Error::is_transient), "{error:?}");
            error.is_none()
        })
        .await;
        let steps: Vec<Step> = numbers.map(|n| Step { n }).collect();
        app.publish_all(&steps).await.unwrap();
        published += EVENTS;

        // Both are at work when it dies.
        let before = waiting(&app).await;
        until("the relay sends", async || {
            waiting(&app).await + 50 < before
        })
        .await;
        servers[leader].kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        servers[leader].restart();
    }

    until("the outbox is empty", async || waiting(&app).await == 0).await;
    drop(relay);
    until_empty(&engine).await;
    let what = "a cluster of three, a kill of each leader";
    close(what, &engine, &ledger, published).await;

    leader(&context, "OUTBOX").await;
    let mut copies = HashMap::<String, usize>::new();
    for message in messages(&context, "OUTBOX").await {
        let id = message.headers.get("ce-id").unwrap().to_string();
        *copies.entry(id).or_default() += 1;
    }
    let duplicates = copies.values().sum::<usize>() - copies.len();
    eprintln!("{what}: {published} events relayed, {duplicates} duplicates");
    assert_eq!(copies.len(), usize::try_from(published).unwrap());
    assert_eq!(duplicates, 0);
    app.assert_no_dead_letters();
}
