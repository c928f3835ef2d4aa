//! `relay_nats` and `jetstream`: ezq on NATS against plain loops of the same client.
//!
//! The server is that of `.ci/server`, on a free port and with a folder of its own. Both sides of a case use
//! streams of the same settings, in turn.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, stream};
use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::sqlx::PgConnection;
use ezq::{App, Handler, QueueName};
use ezq_nats::{JetStreamEngine, NatsSink};
use futures_util::StreamExt as _;
use serde_json::{Map, json};
use tokio::sync::Mutex;

use crate::application::CONCURRENCY;
use crate::by_hand::{delete_by_hand, read_by_hand};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{Template, create, drop_queue};

pub(super) const RELAY: Case = Case {
    name: "relay_nats",
    about: "a relay of a backlog to JetStream; against publishing 500 and awaiting their confirmations",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, database| Box::pin(relay(options, database)),
};

pub(super) const ENGINE: Case = Case {
    name: "jetstream",
    about: "a backlog on JetStream, no-op handler, concurrency 64; against pulling 500 and acknowledging",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, _| Box::pin(engine(options)),
};

const EVENTS: usize = 50_000;
/// As many as a relay sends in one call.
const BATCH: usize = 500;

/// A server with JetStream, killed when it is dropped.
struct Server {
    child: Child,
    folder: PathBuf,
    url: String,
}

impl Server {
    fn start() -> Result<Self> {
        let printed = Command::new(".ci/server").arg("nats-server").output()?;
        let program = String::from_utf8(printed.stdout)?;
        let free = TcpListener::bind("127.0.0.1:0")?;
        let port = free.local_addr()?.port();
        drop(free);

        let folder = std::env::temp_dir().join(format!("ezq-bench-nats-{port}"));
        let child = Command::new(program.trim())
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .args(["--jetstream", "--store_dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            folder,
            url: format!("nats://127.0.0.1:{port}"),
        })
    }

    /// A plain client. The server needs a moment until it is there.
    async fn plain(&self) -> Result<jetstream::Context> {
        let began = Instant::now();
        loop {
            match async_nats::connect(&self.url).await {
                Ok(client) => return Ok(jetstream::new(client)),
                Err(error) if began.elapsed() > Duration::from_secs(30) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn relay(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let server = Server::start()?;
    let plain = server.plain().await?;
    let events = options.events.unwrap_or(EVENTS);
    // Every pair relays the same events, which a longer window would drop.
    let config = stream::Config {
        name: "BENCH".into(),
        subjects: vec!["bench.>".into()],
        duplicate_window: Duration::from_millis(100),
        ..stream::Config::default()
    };
    plain.create_stream(config).await?;
    let sink = NatsSink::connect(&server.url).await?;
    let sink = sink.stream("BENCH", &["bench.>"]).await?;
    let builder = Ezq::builder().database_url(database.url());
    let relay = Relay::new("bench_relay_nats", sink).topic("bench.relayed");
    let ezq = builder
        .without_discovered_handlers()
        .register(relay)
        .connect()
        .await?;
    let template = Template::plain(&ezq, RELAY.name, events).await?;

    let database_by_hand = Mutex::new(database.connect().await?);
    let bare = Pairs::measure(
        RELAY.name,
        options.pairs(),
        |_| relayed(&ezq, &plain, &template),
        |_| published(&plain, events),
    )
    .await?;
    let by_hand = Pairs::measure(
        "relay_nats_loop",
        options.pairs(),
        |_| relayed(&ezq, &plain, &template),
        |n| relayed_by_hand(&ezq, &database_by_hand, &plain, &template, n),
    )
    .await?;

    let mut settings = Map::new();
    settings.insert("events".into(), json!(events));
    settings.insert("reference_batch".into(), json!(BATCH));
    let by_hand = Outcome::of(RELAY.measure(), Figures::Pairs(by_hand), settings.clone());
    Ok(vec![
        Outcome::of(RELAY.measure(), Figures::Pairs(bare), settings),
        by_hand.part("relay_nats_loop", Some(Target::AtLeast(0.7))),
    ])
}

/// Relays a copy of a template, and checks that the stream has each event once.
async fn relayed(ezq: &Ezq, plain: &jetstream::Context, template: &Template) -> Result<Run> {
    let queue = "bench_relay_nats";
    ezq.pgmq().ensure_queue(&QueueName::new(queue)?).await?;
    template.copy(ezq, queue).await?;
    let consumer = ezq.consumer().queue(queue).until_idle();
    let started = Instant::now();
    consumer.run().await?;
    let took = started.elapsed();
    stored(plain, template.due).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

/// Reads, publishes and deletes, one batch after another.
async fn relayed_by_hand(
    ezq: &Ezq,
    database: &Mutex<PgConnection>,
    plain: &jetstream::Context,
    template: &Template,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_relay_nats_plain_{n}");
    create(ezq, &queue).await?;
    template.copy(ezq, &queue).await?;
    let mut database = database.lock().await;

    let started = Instant::now();
    loop {
        let (ids, bodies) = read_by_hand(&mut database, &queue, BATCH).await?;
        if ids.is_empty() {
            break;
        }
        // A row leaves after the confirmation, as with a relay.
        let marks = ids.iter().map(|id| format!("{n}-{id}"));
        publish(plain, marks.zip(bodies)).await?;
        delete_by_hand(&mut database, &queue, ids).await?;
    }
    let took = started.elapsed();

    stored(plain, template.due).await?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

/// Publishes as many messages of the same size, and awaits their confirmations in batches.
async fn published(plain: &jetstream::Context, events: usize) -> Result<Run> {
    let body = serde_json::to_string(&Payload::new(0))?;
    let started = Instant::now();
    for first in (0..events).step_by(BATCH) {
        let numbers = first..events.min(first + BATCH);
        let moment = started.elapsed().as_nanos();
        let messages = numbers.map(|n| (format!("{moment}-{n}"), body.clone()));
        publish(plain, messages).await?;
    }
    let took = started.elapsed();
    stored(plain, events).await?;
    Ok(Run { events, took })
}

/// Publishes messages of these ids and bodies, and awaits their confirmations.
async fn publish(
    plain: &jetstream::Context,
    messages: impl Iterator<Item = (String, String)>,
) -> Result<()> {
    let mut sent = Vec::with_capacity(BATCH);
    for (id, body) in messages {
        // With an id, as the sink sends one: the server keeps it for its window.
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let confirmation = plain
            .publish_with_headers("bench.plain", headers, body.into())
            .await?;
        sent.push(confirmation);
    }
    // All are on their way before the first is awaited.
    for confirmation in sent {
        confirmation.await?;
    }
    Ok(())
}

/// Checks how many messages the stream has, and removes them.
async fn stored(plain: &jetstream::Context, wanted: usize) -> Result<()> {
    let mut stream = plain.get_stream("BENCH").await?;
    let seen = stream.info().await?.state.messages;
    check("the number of events in the stream", seen, wanted)?;
    stream.purge().await?;
    Ok(())
}

async fn engine(options: &Options) -> Result<Vec<Outcome>> {
    let server = Server::start()?;
    let plain = server.plain().await?;
    let events = options.events.unwrap_or(EVENTS);
    let engine = JetStreamEngine::connect(&server.url).await?;
    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let handler = Handler::on("noop", move |_: Payload| {
        // A count alone, which nothing else is ordered by.
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    });
    let builder = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = builder.build(engine.clone())?;

    let pairs = Pairs::measure(
        ENGINE.name,
        options.pairs(),
        |n| handled_by_ezq(&app, &engine, &handled, n, events),
        |n| acknowledged(&app, &engine, &plain, n, events),
    )
    .await?;
    let mut settings = Map::new();
    settings.insert("events".into(), json!(events));
    settings.insert("concurrency".into(), json!(CONCURRENCY));
    settings.insert("reference_batch".into(), json!(BATCH));
    let figures = Figures::Pairs(pairs);
    Ok(vec![Outcome::of(ENGINE.measure(), figures, settings)])
}

/// Fills a queue of its own.
async fn filled(
    app: &App,
    engine: &JetStreamEngine,
    queue: &QueueName,
    events: usize,
) -> Result<()> {
    engine.ensure_queue(queue).await?;
    for first in (0..events).step_by(5_000) {
        let batch: Vec<_> = (first..events.min(first + 5_000))
            .map(Payload::new)
            .collect();
        app.publish_all(&batch).queue(queue).await?;
    }
    Ok(())
}

async fn handled_by_ezq(
    app: &App,
    engine: &JetStreamEngine,
    handled: &AtomicU64,
    n: usize,
    events: usize,
) -> Result<Run> {
    let queue = QueueName::new(&format!("bench_ezq_{n}"))?;
    filled(app, engine, &queue, events).await?;
    handled.store(0, Ordering::Relaxed);
    let consumer = app
        .consumer()
        .queue(&queue)
        .concurrency(CONCURRENCY)
        .until_idle();
    let started = Instant::now();
    consumer.run().await?;
    let took = started.elapsed();
    check(
        "the number of events that the handler saw",
        handled.load(Ordering::Relaxed),
        events,
    )?;
    empty(engine, &queue).await?;
    Ok(Run { events, took })
}

/// Pulls and acknowledges what a queue of ezq's holds, by the plain client. The acknowledgements are not
/// confirmed, which is to the reference's advantage.
async fn acknowledged(
    app: &App,
    engine: &JetStreamEngine,
    plain: &jetstream::Context,
    n: usize,
    events: usize,
) -> Result<Run> {
    let queue = QueueName::new(&format!("bench_plain_{n}"))?;
    filled(app, engine, &queue, events).await?;
    let stream: stream::Stream = plain.get_stream(format!("ezq_{queue}")).await?;
    let consumer = stream.get_consumer::<pull::Config>("workers").await?;
    let started = Instant::now();
    let mut seen = 0;
    while seen < events {
        let mut batch = consumer.fetch().max_messages(BATCH).messages().await?;
        while let Some(message) = batch.next().await {
            message?.ack().await?;
            seen += 1;
        }
    }
    let took = started.elapsed();
    empty(engine, &queue).await?;
    Ok(Run { events, took })
}

/// Waits until the server has taken every acknowledgement.
async fn empty(engine: &JetStreamEngine, queue: &QueueName) -> Result<()> {
    let began = Instant::now();
    loop {
        let stats = engine.stats(queue).await?;
        let left = stats.ready + stats.in_progress;
        if left == 0 || began.elapsed() > Duration::from_secs(10) {
            return check("the number of events that are left", left, 0);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
