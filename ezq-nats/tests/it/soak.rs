//! Events on their way from an outbox over a stream into a queue, and events on the engine, for a while, with
//! kills of all who take part.
//!
//! `SOAK_SECONDS=600 cargo test -p ezq-nats --test it -- --nocapture soak` runs it for 10 minutes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ezq::engine::Engine as _;
use ezq::testing::TestDatabase;
use ezq_nats::NatsSink;

use crate::conformance::engine;
use crate::faults::{self, LEASE, Ledger, Ordered, close, queue, until_empty};
use crate::ingesting::{orders, rows};
use crate::processes::{Worker, until, waiting};
use crate::sending::messages;
use crate::server::{Server, Version};
use crate::workers::{INGEST, RELAY, Step};

/// How long a test runs.
fn seconds() -> u64 {
    let seconds = std::env::var("SOAK_SECONDS");
    seconds.map_or(12, |text| text.parse().unwrap())
}

/// Events of a round, which takes a second and a half.
const RATE: u32 = 80;

#[ezq::test]
async fn nothing_is_lost_on_the_way_over_a_stream(db: TestDatabase) {
    let seconds = seconds();
    let test = "soak::nothing_is_lost_on_the_way_over_a_stream";
    let Some(mut server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let sink = NatsSink::connect(&server.url()).await.unwrap();
    sink.stream("OUTBOX", &["outbox"]).await.unwrap();
    let (app, mut database) = orders(&db).await;
    let start = |role: &str, server: &Server| Worker::start(role, &db.url(), &server.url());
    let mut relay = start(RELAY, &server);
    let mut ingests = [(), ()].map(|()| start(INGEST, &server));

    let began = Instant::now();
    let mut published = 0;
    let mut kills = [0, 0, 0];
    while began.elapsed() < Duration::from_secs(seconds) {
        let batch: Vec<Step> = (published..published + RATE).map(|n| Step { n }).collect();
        app.publish_all(&batch).await.unwrap();
        published += RATE;
        // Now the relay is at work.
        tokio::time::sleep(Duration::from_millis(50)).await;

        // Each fault falls into the recovery of an earlier one now and then.
        let round = published / RATE;
        if round.is_multiple_of(3) {
            relay = start(RELAY, &server);
            kills[0] += 1;
        }
        if round.is_multiple_of(4) {
            let place = usize::from(round.is_multiple_of(8));
            ingests[place] = start(INGEST, &server);
            kills[1] += 1;
        }
        if round.is_multiple_of(5) {
            server.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.restart();
            kills[2] += 1;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    until("the outbox is empty", async || waiting(&app).await == 0).await;
    drop(relay);
    let stored = messages(&server.jetstream().await, "OUTBOX").await;
    let all = stored.len() as u64;
    until("all is stored", async || rows(&mut database).await.0 >= all).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(ingests);

    let ids = stored.iter().map(|one| one.headers.get("ce-id").unwrap());
    let events = ids.map(ToString::to_string).collect::<HashSet<_>>().len();
    let (rows, different) = rows(&mut database).await;
    eprintln!("soak of {seconds} s, ledger:");
    eprintln!(
        "  kills: relay {}, ingest {}, server {}",
        kills[0], kills[1], kills[2]
    );
    eprintln!("  published {published}");
    eprintln!("  messages in the stream {all}, of {events} events");
    eprintln!("  rows in the queue {rows}, of {different} events");
    assert_eq!(events, usize::try_from(published).unwrap());
    assert_eq!(rows, all, "one row of each message");
    assert_eq!(different, u64::from(published));
    app.assert_no_dead_letters();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_on_the_engine_ends_handled_or_dead() {
    let seconds = seconds();
    let test = "soak::every_event_on_the_engine_ends_handled_or_dead";
    let Some(mut server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let ledger = Ledger::new("soak");
    let engine = engine(&server.url(), LEASE).await;
    engine.ensure_queue(&queue()).await.unwrap();
    let app = faults::app(engine.clone(), &ledger.0);
    let start = |server: &Server| faults::Worker::start(&server.url(), &ledger);
    let mut workers = [(), ()].map(|()| start(&server));

    let began = Instant::now();
    let mut published = 0;
    let mut kills = [0, 0];
    while began.elapsed() < Duration::from_secs(seconds) {
        let batch: Vec<Ordered> = (published + 1..=published + RATE)
            .map(|n| Ordered { n })
            .collect();
        app.publish_all(&batch).await.unwrap();
        published += RATE;
        tokio::time::sleep(Duration::from_millis(50)).await;

        let round = published / RATE;
        if round.is_multiple_of(3) {
            workers[usize::from(round.is_multiple_of(2))] = start(&server);
            kills[0] += 1;
        }
        if round.is_multiple_of(5) {
            server.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.restart();
            kills[1] += 1;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    until_empty(&engine).await;
    let what = format!("{} kills of a worker, {} of the server", kills[0], kills[1]);
    close(&what, &engine, &ledger, published).await;
}
