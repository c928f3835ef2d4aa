//! Relays and ingests in processes of their own, which are killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ezq::message::QueueName;
use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::testing::TestEzq;
use ezq_nats::{NatsConfig, NatsSink, NatsSource};
use serde::{Deserialize, Serialize};

/// An event that is relayed.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "step", queue = "outbox")]
pub(crate) struct Step {
    pub(crate) n: u32,
}

/// The variables that tell a worker what it is, its database and its servers.
const ROLE: &str = "WORKER_ROLE";
const DATABASE: &str = "WORKER_DATABASE";
const SERVER: &str = "WORKER_SERVER";

/// What a worker does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Sends the events of `outbox` to the subject `outbox`.
    Relay,
    /// Stores the messages of the stream `OUTBOX` in `orders`.
    Ingest,
}

/// A process, killed as by `kill -9` when it is dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(role: Role, database: &str, servers: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker", "--nocapture"])
            .env(ROLE, format!("{role:?}"))
            .env(DATABASE, database)
            .env(SERVER, servers)
            .stdin(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what a worker's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn worker() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    // It ends with the test, whatever that ends by.
    std::thread::spawn(|| {
        std::io::stdin().lines().for_each(drop);
        std::process::exit(1);
    });
    let config = NatsConfig::new(&std::env::var(SERVER).unwrap()).unwrap();
    let builder = Ezq::builder()
        .database_url(std::env::var(DATABASE).unwrap())
        .without_discovered_handlers()
        .configure(|config| config.lease = Duration::from_secs(2));

    if role == "Relay" {
        let sink = NatsSink::connect_lazily(&config).await.unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(50).rate(300);
        let ezq = builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
    } else {
        let source = NatsSource::with_config(config, "OUTBOX").unwrap();
        let ezq = builder.connect().await.unwrap();
        let ingest = ezq.ingest(source).into("orders").plain("number");
        ingest.batch_size(50).run().await.unwrap();
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        let is_late = began.elapsed() > Duration::from_secs(120);
        assert!(!is_late, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many events of `outbox` are not relayed yet.
pub(crate) async fn waiting(app: &TestEzq) -> u64 {
    let queue = QueueName::new("outbox").unwrap();
    let stats = app.stats(&queue).await.unwrap();
    assert_eq!(stats.dead, 0, "no event is given up");
    stats.ready + stats.in_progress + stats.scheduled
}
