//! Relays and ingests in processes of their own, which are killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq_kafka::{KafkaSink, KafkaSource};
use serde::{Deserialize, Serialize};

/// An event that is relayed.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "step", queue = "outbox", key = "customer")]
pub(crate) struct Step {
    pub(crate) n: u32,
    pub(crate) customer: String,
}

impl Step {
    pub(crate) fn new(n: u32) -> Self {
        let customer = format!("customer-{}", n % 97);
        Self { n, customer }
    }
}

/// The variables that tell a worker what it is, its database and its cluster.
const ROLE: &str = "WORKER_ROLE";
const DATABASE: &str = "WORKER_DATABASE";
const CLUSTER: &str = "WORKER_CLUSTER";

/// What a worker does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// Sends the events of `outbox` to the topic `outbox`.
    Relay,
    /// Stores the messages of a topic of the same name in `orders`.
    Ingest(&'static str),
}

impl Role {
    fn name(self) -> String {
        match self {
            Self::Relay => "relay".to_owned(),
            Self::Ingest(topic) => topic.to_owned(),
        }
    }
}

/// A process, killed as by `kill -9` when it is dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(role: Role, database: &str, url: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker", "--nocapture"])
            .env(ROLE, role.name())
            .env(DATABASE, database)
            .env(CLUSTER, url)
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
    let database = std::env::var(DATABASE).unwrap();
    let url = std::env::var(CLUSTER).unwrap();
    let builder = Ezq::builder()
        .database_url(&database)
        .without_discovered_handlers()
        .configure(|config| config.lease = Duration::from_secs(2));

    if role == "relay" {
        let sink = KafkaSink::connect_lazily(&url).unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(100).rate(2_000);
        let ezq = builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
    } else {
        let url = format!("{url}?session.timeout.ms=4000");
        let source = KafkaSource::new(&url, "shop", [role]).unwrap();
        let ezq = builder.connect().await.unwrap();
        let ingest = ezq.ingest(source).into("orders").plain("number");
        ingest.batch_size(50).run().await.unwrap();
    }
}
