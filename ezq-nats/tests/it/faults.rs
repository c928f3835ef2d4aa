//! Handlers on the engine while workers, the server or the network fail. Each test prints its ledger: how
//! many events were handled, how many more than once, and how many are dead letters.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ezq::App;
use ezq::admin::DeadLetterFilter;
use ezq::engine::Engine;
use ezq::handler::{Backoff, Handler};
use ezq::message::QueueName;
use ezq::prelude::*;
use ezq_nats::JetStreamEngine;
use serde::{Deserialize, Serialize};

use crate::conformance::engine;
use crate::proxy::Proxy;
use crate::server::{Server, Version};

#[derive(Event, Serialize, Deserialize, Clone)]
#[event(type = "work.ordered", queue = "work")]
pub(crate) struct Ordered {
    pub(crate) n: u32,
}

/// The variables that tell a worker its server and its ledger.
const SERVER: &str = "WORK_SERVER";
const LEDGER: &str = "WORK_LEDGER";
/// How long the server waits for a worker that has died. The leases of the workers are as long.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// Every event of such a number is given up after its attempts.
const GIVEN_UP: u32 = 50;
/// Every event of such a number fails at first.
const FAILS_ONCE: u32 = 7;

pub(crate) fn queue() -> QueueName {
    QueueName::new("work").unwrap()
}

/// What is noted of each handled event: a line for each time.
pub(crate) struct Ledger(pub(crate) PathBuf);

impl Ledger {
    pub(crate) fn new(name: &str) -> Self {
        let process = std::process::id();
        let path = std::env::temp_dir().join(format!("ezq-nats-{process}-{name}"));
        std::fs::write(&path, "").unwrap();
        Self(path)
    }

    /// How often each event was handled.
    fn read(&self) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for line in std::fs::read_to_string(&self.0).unwrap().lines() {
            *counts.entry(line.parse().unwrap()).or_default() += 1;
        }
        counts
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn note(ledger: &Path, n: u32) {
    // One write of a short line to a file that is appended to is whole, whoever else writes.
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(ledger)
        .unwrap();
    file.write_all(format!("{n}\n").as_bytes()).unwrap();
}

/// An application that notes what it handles.
pub(crate) fn app(engine: JetStreamEngine, ledger: &Path) -> App {
    let ledger = ledger.to_owned();
    let handle = move |event: Ordered, context: Context| {
        let path = ledger.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let n = event.n;
            let is_first = context.attempt() == 1;
            let fails = n.is_multiple_of(GIVEN_UP) || (is_first && n.is_multiple_of(FAILS_ONCE));
            if fails {
                return Err(HandlerError::retry(format!("event {n} fails")));
            }
            note(&path, n);
            Ok(())
        }
    };
    let handler = Handler::on("note", handle)
        .max_attempts(3)
        .backoff(Backoff::constant(Duration::from_millis(300)));
    App::builder()
        .without_discovered_handlers()
        .configure(|config| config.lease = LEASE)
        .register(handler)
        .build(engine)
        .unwrap()
}

/// A worker in a process of its own.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(servers: &str, ledger: &Ledger) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::worker", "--nocapture"])
            .env(SERVER, servers)
            .env(LEDGER, &ledger.0)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Worker {
    /// Kills it as `kill -9` does.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what a worker's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn worker() {
    let Ok(url) = std::env::var(SERVER) else {
        return;
    };
    let engine = engine(&url, LEASE).await;
    let app = app(engine, Path::new(&std::env::var(LEDGER).unwrap()));
    app.consumer().queue("work").run().await.unwrap();
}

async fn publish(engine: &JetStreamEngine, ledger: &Ledger, events: u32) {
    let app = app(engine.clone(), &ledger.0);
    engine.ensure_queue(&queue()).await.unwrap();
    let events: Vec<_> = (1..=events).map(|n| Ordered { n }).collect();
    app.publish_all(&events).await.unwrap();
}

/// Waits until nothing of the queue is left.
pub(crate) async fn until_empty(engine: &JetStreamEngine) {
    let began = Instant::now();
    loop {
        // The server may be away.
        let stats = engine.stats(&queue()).await.ok();
        let left = stats.map(|stats| stats.ready + stats.in_progress + stats.scheduled);
        if left == Some(0) {
            return;
        }
        let is_late = began.elapsed() > Duration::from_secs(120);
        assert!(!is_late, "not empty: {stats:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until so many events were handled.
pub(crate) async fn until_handled(ledger: &Ledger, count: usize) {
    let began = Instant::now();
    while ledger.read().len() < count {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "not {count} handled"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Prints the ledger, and checks that each event was handled or is a dead letter.
pub(crate) async fn close(what: &str, engine: &JetStreamEngine, ledger: &Ledger, events: u32) {
    let app = app(engine.clone(), &ledger.0);
    let letters = app.dead_letters("work").unwrap();
    let listed = letters
        .list(&DeadLetterFilter::all(), 10_000)
        .await
        .unwrap();
    let mut dead = BTreeMap::<u32, u32>::new();
    for letter in &listed {
        let Ordered { n } = letter.event().unwrap();
        *dead.entry(n).or_default() += 1;
    }

    let handled = ledger.read();
    let repeated: u32 = handled.values().map(|times| times - 1).sum();
    let dead_twice: u32 = dead.values().map(|times| times - 1).sum();
    let both = dead.keys().filter(|n| handled.contains_key(n)).count();
    let lost: Vec<u32> = (1..=events)
        .filter(|n| !handled.contains_key(n) && !dead.contains_key(n))
        .collect();
    eprintln!(
        "{what}: {events} events, {} handled, {repeated} times more than once, {} dead letters, \
         {dead_twice} of them twice, {both} both, {} lost",
        handled.len(),
        dead.len(),
        lost.len()
    );
    assert_eq!(lost, [0_u32; 0], "lost events");
    assert!(dead.keys().all(|n| n.is_multiple_of(GIVEN_UP)), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_and_servers_lose_no_event() {
    const EVENTS: u32 = 4_000;
    let test = "faults::killed_workers_and_servers_lose_no_event";
    let Some(mut server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let ledger = Ledger::new("killed");
    let engine = engine(&server.url(), LEASE).await;
    publish(&engine, &ledger, EVENTS).await;

    let _steady = Worker::start(&server.url(), &ledger);
    for round in 1..=4 {
        let killed = Worker::start(&server.url(), &ledger);
        until_handled(&ledger, round * 400).await;
        drop(killed);
        if round % 2 == 0 {
            server.kill();
            server.restart();
        }
    }
    until_empty(&engine).await;
    close(
        "4 kills of a worker, 2 of the server",
        &engine,
        &ledger,
        EVENTS,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_costs_no_event() {
    const EVENTS: u32 = 2_000;
    let test = "faults::a_partition_costs_no_event";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let ledger = Ledger::new("partition");
    let direct = engine(&server.url(), LEASE).await;
    publish(&direct, &ledger, EVENTS).await;

    let proxy = Proxy::start(server.address()).await;
    let cut_off = app(engine(&proxy.url(), LEASE).await, &ledger.0);
    let cut_off = cut_off.consumer().queue("work").spawn();
    until_handled(&ledger, 300).await;
    proxy.cut();
    // Another worker takes over what the first has, while that one does not know.
    let other = app(direct.clone(), &ledger.0);
    let other = other.consumer().queue("work").spawn();
    tokio::time::sleep(LEASE * 2).await;
    // What the first has sent arrives late.
    proxy.mend();
    until_empty(&direct).await;
    close("a partition of two leases", &direct, &ledger, EVENTS).await;
    for consumer in [cut_off, other] {
        consumer.stop();
        consumer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_runs_on_another_engine() {
    let test = "faults::the_quickstart_runs_on_another_engine";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let ledger = Ledger::new("quickstart");
    let app = app(
        JetStreamEngine::connect(&server.url()).await.unwrap(),
        &ledger.0,
    );
    app.publish(&Ordered { n: 1 }).await.unwrap();
    app.publish(&End::default()).queue("work").await.unwrap();
    let report = app.consumer().queue("work").run().await.unwrap();
    assert_eq!(ledger.read(), BTreeMap::from([(1, 1)]), "{report}");
}
