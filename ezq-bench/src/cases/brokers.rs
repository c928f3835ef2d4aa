//! `relay_redis`, `ingest_redis`: how fast events go to streams of Redis and come from them.
//!
//! The references are plain loops of the same client. The one of the relay adds bodies of the same shape in
//! pipelines of 500, and reads no database. The one of the ingest reads 500 entries and stores them with
//! `pgmq.send_batch`. The server is the machine's own `redis-server`, with the defaults of its programs.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::sqlx::{PgConnection, query_scalar};
use ezq_redis::{RedisSink, RedisSource};
use redis::aio::MultiplexedConnection;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::bodies::Bodies;
use crate::by_hand::{delete_by_hand, read_by_hand};
use crate::case::Case;
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{Template, count, create, drop_queue};

pub(super) const RELAY: Case = Case {
    name: "relay_redis",
    about: "a backlog to a stream; against XADD in pipelines of 500, without a database",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, database| Box::pin(relay(options, database)),
};

pub(super) const INGEST: Case = Case {
    name: "ingest_redis",
    about: "a stream to a queue; against XREAD of 500 and pgmq.send_batch",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, database| Box::pin(ingest(options, database)),
};

const EVENTS: usize = 50_000;
const BATCH: usize = 500;
/// What `XREAD` answers: streams with their entries, each with its fields and values in turns.
type Entries = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;

/// A server that ends with the case.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    async fn start() -> Result<Self> {
        let free = TcpListener::bind("127.0.0.1:0")?;
        let port = free.local_addr()?.port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", ""])
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        };
        while server.connection().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    async fn connection(&self) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(self.url.as_str())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(database: &Database) -> Result<Ezq> {
    let builder = Ezq::builder().database_url(database.url());
    Ok(builder.without_discovered_handlers().connect().await?)
}

/// Adds bodies to a stream, as a program does that has no database.
async fn add(connection: &mut MultiplexedConnection, stream: &str, events: usize) -> Result<()> {
    let mut bodies = Bodies::default();
    for first in (0..events).step_by(BATCH) {
        let mut pipeline = redis::pipe();
        for n in first..events.min(first + BATCH) {
            let body = bodies.next(&Payload::new(n))?;
            let add = pipeline.cmd("XADD").arg(stream).arg("*");
            add.arg("cloud_event").arg(body);
        }
        pipeline.query_async::<Vec<String>>(connection).await?;
    }
    Ok(())
}

async fn length(connection: &mut MultiplexedConnection, stream: &str) -> Result<usize> {
    let length = redis::cmd("XLEN").arg(stream).take();
    Ok(length.query_async(connection).await?)
}

async fn relay(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let server = Server::start().await?;
    let ezq = connect(database).await?;
    let events = options.events.unwrap_or(EVENTS);
    let template = Template::plain(&ezq, "relay_redis", events).await?;
    let plain = Mutex::new(database.connect().await?);
    let bare = Pairs::measure(
        RELAY.name,
        options.pairs(),
        |n| send_on(database, &server, &template, format!("bare_{n}")),
        |n| produce(&server, events, n),
    )
    .await?;
    let by_hand = Pairs::measure(
        "relay_redis_loop",
        options.pairs(),
        |n| send_on(database, &server, &template, format!("loop_{n}")),
        |n| send_by_hand(&ezq, &plain, &server, &template, n),
    )
    .await?;

    let settings = settings(&ezq, database, template, events).await?;
    let by_hand = Outcome::of(RELAY.measure(), Figures::Pairs(by_hand), settings.clone());
    Ok(vec![
        Outcome::of(RELAY.measure(), Figures::Pairs(bare), settings),
        by_hand.part("relay_redis_loop", Some(Target::AtLeast(0.7))),
    ])
}

async fn send_on(
    database: &Database,
    server: &Server,
    template: &Template,
    name: String,
) -> Result<Run> {
    let queue = format!("bench_relay_redis_{name}");
    let sink = RedisSink::connect(&server.url).await?;
    let builder = Ezq::builder().database_url(database.url());
    let ezq = builder
        .without_discovered_handlers()
        .register(Relay::new(&queue, sink))
        .connect()
        .await?;
    create(&ezq, &queue).await?;
    template.copy(&ezq, &queue).await?;
    let mut connection = server.connection().await?;

    let started = Instant::now();
    let consumer = ezq.consumer().queue(queue.as_str()).until_idle();
    consumer.run().await?;
    let took = started.elapsed();

    let stored = length(&mut connection, &queue).await?;
    check("the entries of the stream", stored as u64, template.due)?;
    drop_queue(&ezq, &queue, 0).await?;
    ezq.close().await;
    Ok(Run {
        events: template.due,
        took,
    })
}

/// Reads, sends and deletes on one connection each.
async fn send_by_hand(
    ezq: &Ezq,
    plain: &Mutex<PgConnection>,
    server: &Server,
    template: &Template,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_relay_redis_plain_{n}");
    create(ezq, &queue).await?;
    template.copy(ezq, &queue).await?;
    let mut connection = server.connection().await?;
    let mut plain = plain.lock().await;

    let started = Instant::now();
    loop {
        let (ids, bodies) = read_by_hand(&mut plain, &queue, BATCH).await?;
        if ids.is_empty() {
            break;
        }
        // A row leaves after the answer, as with a relay.
        let mut pipeline = redis::pipe();
        for body in bodies {
            let add = pipeline.cmd("XADD").arg(&queue).arg("*");
            add.arg("cloud_event").arg(body);
        }
        pipeline.query_async::<Vec<String>>(&mut connection).await?;
        delete_by_hand(&mut plain, &queue, ids).await?;
    }
    let took = started.elapsed();

    let stored = length(&mut connection, &queue).await?;
    check("the entries of the stream", stored as u64, template.due)?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

async fn produce(server: &Server, events: usize, n: usize) -> Result<Run> {
    let mut connection = server.connection().await?;
    let stream = format!("bench_produce_{n}");
    let started = Instant::now();
    add(&mut connection, &stream, events).await?;
    let took = started.elapsed();
    let stored = length(&mut connection, &stream).await?;
    check("the entries of the stream", stored as u64, events)?;
    Ok(Run { events, took })
}

async fn ingest(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let server = Server::start().await?;
    let ezq = connect(database).await?;
    let events = options.events.unwrap_or(EVENTS);
    add(&mut server.connection().await?, "orders", events).await?;
    let template = Template::create(&ezq, "ingest_redis").await?;
    let plain = Mutex::new(database.connect().await?);
    let pairs = Pairs::measure(
        INGEST.name,
        options.pairs(),
        |n| take_in(&ezq, &server, events, n),
        |n| read_and_send(&ezq, &plain, &server, events, n),
    )
    .await?;

    let settings = settings(&ezq, database, template, events).await?;
    let figures = Figures::Pairs(pairs);
    Ok(vec![Outcome::of(INGEST.measure(), figures, settings)])
}

async fn take_in(ezq: &Ezq, server: &Server, events: usize, n: usize) -> Result<Run> {
    let queue = format!("bench_ingest_redis_{n}");
    create(ezq, &queue).await?;
    let source = RedisSource::connect(&server.url, ["orders"]).await?;
    // Positions of its own, so that each run reads the whole stream.
    let ingest = ezq.ingest(source.named(format!("bench-{n}")));

    let started = Instant::now();
    let handle = ingest.into(queue.as_str()).batch_size(BATCH).spawn();
    while handle.health().stored < events as u64 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = started.elapsed();

    handle.stop();
    handle.await?;
    let stored = count(ezq, &format!("pgmq.q_{queue}")).await?;
    check("the messages of the queue", stored, events)?;
    drop_queue(ezq, &queue, events).await?;
    Ok(Run { events, took })
}

async fn read_and_send(
    ezq: &Ezq,
    plain: &Mutex<PgConnection>,
    server: &Server,
    events: usize,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_ingest_plain_{n}");
    create(ezq, &queue).await?;
    let mut connection = server.connection().await?;
    let mut plain = plain.lock().await;

    let started = Instant::now();
    let mut last = "0-0".to_owned();
    let mut sent = 0;
    while sent < events {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(BATCH);
        read.arg("STREAMS").arg("orders").arg(&last);
        let found: Entries = read.query_async(&mut connection).await?;
        let entries = found.into_iter().flatten().flat_map(|(_, entries)| entries);
        let mut bodies = Vec::new();
        for (id, mut fields) in entries {
            last = id;
            bodies.extend(fields.pop());
        }
        let ids: Vec<i64> = query_scalar("select pgmq.send_batch($1, $2::text[]::jsonb[])")
            .bind(&queue)
            .bind(bodies)
            .fetch_all(&mut *plain)
            .await?;
        sent += ids.len();
    }
    let took = started.elapsed();

    check("the number of ids", sent as u64, events)?;
    drop_queue(ezq, &queue, events).await?;
    Ok(Run { events, took })
}

async fn settings(
    ezq: &Ezq,
    database: &Database,
    template: Template,
    events: usize,
) -> Result<Map<String, Value>> {
    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    template.drop(ezq).await?;
    ezq.close().await;
    Ok(settings)
}
