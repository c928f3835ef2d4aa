//! Events on their way from an outbox over a topic into a queue, for a while, with kills of all who take part.
//!
//! `SOAK_SECONDS=600 cargo test -p ezq-kafka --test it -- --nocapture soak` runs it for 10 minutes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ezq::engine::Engine as _;
use ezq::message::QueueName;
use ezq::testing::TestDatabase;

use crate::ingesting::rows;
use crate::processes::{Worker, until, waiting};
use crate::records::ids;
use crate::server::Cluster;
use crate::workers::{RELAY, Step, ingest};

/// Events of a second. The cluster keeps 5 MB of each partition, which 10 minutes of these do not reach.
const RATE: u32 = 80;
const PARTITIONS: i32 = 8;

#[ezq::test]
async fn nothing_is_lost_on_the_way_over_a_topic(db: TestDatabase) {
    let seconds = std::env::var("SOAK_SECONDS");
    let seconds = seconds.map_or(12, |text| text.parse().unwrap());
    let cluster = Cluster::start();
    cluster.create_topic("outbox", PARTITIONS);
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    app.pgmq()
        .ensure_queue(&QueueName::new("orders").unwrap())
        .await
        .unwrap();
    let start = |role: &str| Worker::start(role, &db.url(), &cluster.url());
    let mut relay = start(RELAY);
    let mut ingests = [start(&ingest("outbox")), start(&ingest("outbox"))];

    let began = Instant::now();
    let mut published = 0;
    let mut kills = [0, 0, 0];
    while began.elapsed() < Duration::from_secs(seconds) {
        let batch: Vec<Step> = (published..published + RATE).map(Step::new).collect();
        app.publish_all(&batch).await.unwrap();
        published += RATE;
        // Now the relay is at work, and a moment later it waits again.
        tokio::time::sleep(Duration::from_millis(30)).await;

        // Each fault falls into the recovery of an earlier one now and then.
        let round = published / RATE;
        if round.is_multiple_of(3) {
            drop(std::mem::replace(&mut relay, start(RELAY)));
            kills[0] += 1;
        }
        if round.is_multiple_of(11) {
            let place = usize::from(round.is_multiple_of(2));
            ingests[place] = start(&ingest("outbox"));
            kills[1] += 1;
        }
        if round.is_multiple_of(7) {
            cluster.go_down();
            tokio::time::sleep(Duration::from_millis(700)).await;
            cluster.come_up();
            kills[2] += 1;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    until("the outbox is empty", async || waiting(&app).await == 0).await;
    drop(relay);
    let records = ids(&cluster.brokers(), "outbox");
    let all = records.len() as u64;
    until("all is stored", async || rows(&app).await.0 >= all).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(ingests);

    let distinct: HashSet<&String> = records.iter().collect();
    let (rows, different) = rows(&app).await;
    eprintln!("soak of {seconds} s, ledger:");
    eprintln!(
        "  kills: relay {}, ingest {}, all brokers {}",
        kills[0], kills[1], kills[2]
    );
    eprintln!("  published {published}");
    eprintln!("  records in the topic {all}, of {} events", distinct.len());
    eprintln!("  rows in the queue {rows}, of {different} events");
    assert_eq!(distinct.len(), usize::try_from(published).unwrap());
    assert_eq!(rows, all, "one row of each record");
    assert_eq!(different, u64::from(published));
    app.assert_no_dead_letters();
}
