//! Relays and ingests in processes of their own, which are killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ezq::message::QueueName;
use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::testing::TestEzq;
use ezq_redis::{RedisSink, RedisSource};
use serde::{Deserialize, Serialize};

use crate::server::Server;

/// An event that is relayed.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "step", queue = "outbox")]
pub(crate) struct Step {
    pub(crate) n: u32,
}

/// The variables that tell a worker what it is, its database and its server.
const ROLE: &str = "WORKER_ROLE";
const DATABASE: &str = "WORKER_DATABASE";
const SERVER: &str = "WORKER_SERVER";

/// What a worker does.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// Sends the events of `outbox` to the stream `outbox`.
    Relay,
    /// Stores the entries of a stream in `orders`.
    Ingest(&'static str),
}

impl Role {
    fn name(self) -> String {
        match self {
            Self::Relay => "relay".to_owned(),
            Self::Ingest(stream) => format!("ingest {stream}"),
        }
    }
}

/// A process, killed as by `kill -9` when it is dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(role: Role, database: &str, server: &Server) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker", "--nocapture"])
            .env(ROLE, role.name())
            .env(DATABASE, database)
            .env(SERVER, server.url())
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
    let url = std::env::var(SERVER).unwrap();
    let builder = Ezq::builder()
        .database_url(std::env::var(DATABASE).unwrap())
        .without_discovered_handlers()
        .configure(|config| config.lease = Duration::from_secs(2));

    if let Some(stream) = role.strip_prefix("ingest ") {
        let source = RedisSource::connect_lazily(&url, [stream]).unwrap();
        let ezq = builder.connect().await.unwrap();
        let ingest = ezq.ingest(source.named("till")).into("orders").plain("n");
        ingest.batch_size(50).run().await.unwrap();
    } else {
        let sink = RedisSink::connect_lazily(&url).unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(100).rate(2_000);
        let ezq = builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
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
