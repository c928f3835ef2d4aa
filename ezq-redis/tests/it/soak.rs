//! Events on their way from an outbox over a stream into a queue, for a while, with kills of all who take part.
//!
//! `SOAK_SECONDS=600 cargo test -p ezq-redis --test it -- --nocapture soak` runs it for 10 minutes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ezq::sqlx::{self, PgConnection};
use ezq::testing::TestDatabase;
use serde_json::Value;

use crate::ingesting::app;
use crate::processes::{Worker, until, waiting};
use crate::sending::entries;
use crate::server::Server;
use crate::workers::{RELAY, Step, ingest};

/// Events of a round, which takes a second and a half.
const RATE: u32 = 80;

/// How many rows `orders` has, and of how many events.
async fn rows(database: &mut PgConnection) -> (u64, u64) {
    let counted = sqlx::query_as::<_, (i64, i64)>(
        "SELECT count(*), count(DISTINCT message #>> '{data,n}') FROM pgmq.q_orders",
    );
    let (rows, different) = counted.fetch_one(database).await.unwrap();
    (rows.unsigned_abs(), different.unsigned_abs())
}

#[ezq::test]
async fn nothing_is_lost_on_the_way_over_a_stream(db: TestDatabase) {
    let seconds = std::env::var("SOAK_SECONDS");
    let seconds = seconds.map_or(12, |text| text.parse().unwrap());
    let test = "soak::nothing_is_lost_on_the_way_over_a_stream";
    let Some(mut server) = Server::start(test, &[]) else {
        return;
    };
    let (app, mut database) = app(&db).await;
    let start = |role: &str, server: &Server| Worker::start(role, &db.url(), &server.url());
    let mut relay = start(RELAY, &server);
    let mut ingests = [(), ()].map(|()| start(&ingest("outbox"), &server));

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
            ingests[place] = start(&ingest("outbox"), &server);
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
    let stored = entries(&mut server.connection(), "outbox");
    let all = stored.len() as u64;
    until("all is stored", async || rows(&mut database).await.0 >= all).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(ingests);

    let ids = stored.iter().map(|fields| {
        let event: Value = serde_json::from_str(&fields[1]).unwrap();
        event["id"].as_str().unwrap().to_owned()
    });
    let events = ids.collect::<HashSet<_>>().len();
    let (rows, different) = rows(&mut database).await;
    eprintln!("soak of {seconds} s, ledger:");
    eprintln!(
        "  kills: relay {}, ingest {}, server {}",
        kills[0], kills[1], kills[2]
    );
    eprintln!("  published {published}");
    eprintln!("  entries in the stream {all}, of {events} events");
    eprintln!("  rows in the queue {rows}, of {different} events");
    assert_eq!(events, usize::try_from(published).unwrap());
    assert_eq!(rows, all, "one row of each entry");
    assert_eq!(different, u64::from(published));
    app.assert_no_dead_letters();
}
