//! Relays and ingests in processes of their own, which are killed. For the tests of all brokers.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ezq::message::QueueName;
use ezq::testing::TestEzq;
use ezq::{Ezq, EzqBuilder};

/// The variables that tell a worker what it is, its database and its servers.
const ROLE: &str = "WORKER_ROLE";
const DATABASE: &str = "WORKER_DATABASE";
const SERVERS: &str = "WORKER_SERVERS";

/// A process that runs `workers::worker`, killed as by `kill -9` when it is dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(role: &str, database: &str, servers: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker", "--nocapture"])
            .env(ROLE, role)
            .env(DATABASE, database)
            .env(SERVERS, servers)
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

/// What a worker's process is started for.
pub(crate) struct Orders {
    pub(crate) role: String,
    pub(crate) servers: String,
    /// An application on the database of the test.
    pub(crate) builder: EzqBuilder,
}

impl Orders {
    /// `None` in the test run itself. The process ends with the test, whatever that ends by.
    pub(crate) fn of_this_process() -> Option<Self> {
        let role = std::env::var(ROLE).ok()?;
        std::thread::spawn(|| {
            std::io::stdin().lines().for_each(drop);
            std::process::exit(1);
        });
        let builder = Ezq::builder()
            .database_url(std::env::var(DATABASE).unwrap())
            .without_discovered_handlers()
            .configure(|config| config.lease = Duration::from_secs(2));
        Some(Self {
            role,
            servers: std::env::var(SERVERS).unwrap(),
            builder,
        })
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
