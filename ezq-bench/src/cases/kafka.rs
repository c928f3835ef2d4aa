//! `relay_kafka`: how fast the events of a queue reach a topic.
//!
//! The cluster is librdkafka's own, in this process, so both sides share its cost. One reference is a bare
//! producer of the same client and settings: it sends bodies that it has at hand, 500 at a time, and awaits
//! their reports. The other one does the whole work of a relay by hand: it reads 500 messages with
//! `pgmq.read`, sends them and deletes them.

use std::time::Instant;

use ezq::QueueName;
use ezq::engine::Engine as _;
use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::sqlx::PgConnection;
use ezq_kafka::KafkaSink;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord, Producer as _};
use serde_json::json;
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
use crate::queues::{Template, create, drop_queue};

pub(super) const RELAY: Case = Case {
    name: "relay_kafka",
    about: "a backlog relayed to a topic; against a bare producer, and against read, send and delete",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, database| Box::pin(relay(options, database)),
};

/// What a partition of the cluster keeps is 5 MB, and a run may not reach that.
pub(super) const EVENTS: usize = 50_000;
pub(super) const BATCH: usize = 500;
pub(super) const PARTITIONS: i32 = 8;

pub(super) type Cluster = MockCluster<'static, DefaultProducerContext>;

async fn relay(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let cluster = MockCluster::new(3)?;
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .connect()
        .await?;
    let template = Template::plain(&ezq, "relay_kafka", events).await?;
    let producer = producer(&cluster)?;
    let plain = Mutex::new(database.connect().await?);

    let bare = Pairs::measure(
        "relay_kafka",
        options.pairs(),
        |n| relay_all(database, &cluster, &template, format!("relay_bare_{n}")),
        |n| send_bare(&cluster, &producer, events, format!("bare_{n}")),
    )
    .await?;
    let by_hand = Pairs::measure(
        "relay_kafka_loop",
        options.pairs(),
        |n| relay_all(database, &cluster, &template, format!("relay_loop_{n}")),
        |n| send_by_hand(&ezq, &plain, &cluster, &producer, &template, n),
    )
    .await?;

    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("partitions".into(), json!(PARTITIONS));
    template.drop(&ezq).await?;
    ezq.close().await;
    let by_hand = Outcome::of(RELAY.measure(), Figures::Pairs(by_hand), settings.clone());
    Ok(vec![
        Outcome::of(RELAY.measure(), Figures::Pairs(bare), settings),
        by_hand.part("relay_kafka_loop", Some(Target::AtLeast(0.7))),
    ])
}

pub(super) fn producer(cluster: &Cluster) -> Result<FutureProducer> {
    // As the sink's, of which the rest of the settings only matter when something fails.
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("partitioner", "murmur2_random");
    Ok(config.create()?)
}

/// Relays a copy of a template, and checks that the topic has all of it.
async fn relay_all(
    database: &Database,
    cluster: &Cluster,
    template: &Template,
    name: String,
) -> Result<Run> {
    cluster.create_topic(&name, PARTITIONS, 3)?;
    let sink = KafkaSink::connect(&format!("kafka://{}", cluster.bootstrap_servers())).await?;
    let queue = QueueName::new(&name)?;
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .register(Relay::new(name.as_str(), sink))
        .connect()
        .await?;
    ezq.pgmq().ensure_queue(&queue).await?;
    template.copy(&ezq, &name).await?;

    let consumer = ezq.consumer().queue(&queue).until_idle();
    let started = Instant::now();
    let report = consumer.run().await?;
    let took = started.elapsed();

    check("what was relayed", report.counts.handled, template.due)?;
    check_topic(cluster, &name, template.due)?;
    drop_queue(&ezq, &name, 0).await?;
    drop_queue(&ezq, &queue.dead_letters(), 0).await?;
    ezq.close().await;
    Ok(Run {
        events: template.due,
        took,
    })
}

async fn send_bare(
    cluster: &Cluster,
    producer: &FutureProducer,
    events: usize,
    topic: String,
) -> Result<Run> {
    cluster.create_topic(&topic, PARTITIONS, 3)?;
    let mut bodies = Bodies::default();
    let bodies: Vec<String> = (0..events)
        .map(|n| bodies.next(&Payload::new(n)))
        .collect::<Result<_>>()?;

    // The bodies are at hand before the time is taken.
    let started = Instant::now();
    for batch in bodies.chunks(BATCH) {
        send(producer, &topic, batch.iter().map(String::as_str)).await?;
    }
    let took = started.elapsed();
    check_topic(cluster, &topic, events)?;
    Ok(Run { events, took })
}

/// Reads, sends and deletes on one connection.
async fn send_by_hand(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    cluster: &Cluster,
    producer: &FutureProducer,
    template: &Template,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_relay_kafka_plain_{n}");
    cluster.create_topic(&queue, PARTITIONS, 3)?;
    create(ezq, &queue).await?;
    template.copy(ezq, &queue).await?;
    let mut connection = connection.lock().await;

    let started = Instant::now();
    loop {
        let (ids, bodies) = read_by_hand(&mut connection, &queue, BATCH).await?;
        if ids.is_empty() {
            break;
        }
        // A row leaves after its report, as with a relay.
        send(producer, &queue, bodies.iter().map(String::as_str)).await?;
        delete_by_hand(&mut connection, &queue, ids).await?;
    }
    let took = started.elapsed();

    check_topic(cluster, &queue, template.due)?;
    drop_queue(ezq, &queue, 0).await?;
    Ok(Run {
        events: template.due,
        took,
    })
}

/// Sends bodies at once, as events in structured content mode, and awaits their reports.
pub(super) async fn send(
    producer: &FutureProducer,
    topic: &str,
    bodies: impl Iterator<Item = &str>,
) -> Result<()> {
    let mut reports = Vec::with_capacity(BATCH);
    for body in bodies {
        let headers = OwnedHeaders::new().insert(Header {
            key: "content-type",
            value: Some("application/cloudevents+json; charset=UTF-8"),
        });
        let record: FutureRecord<'_, str, str> = FutureRecord::to(topic);
        let enqueued = producer.send_result(record.payload(body).headers(headers));
        reports.push(enqueued.map_err(|(error, _)| error)?);
    }

    // All are on their way before the first is awaited.
    for report in reports {
        report.await?.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// Checks how many records a topic has.
pub(super) fn check_topic(cluster: &Cluster, topic: &str, wanted: usize) -> Result<()> {
    let asking = producer(cluster)?;
    let limit = std::time::Duration::from_secs(10);
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = asking.client().fetch_watermarks(topic, partition, limit)?;
        records += (high - low).unsigned_abs();
    }
    check("the number of records in the topic", records, wanted)
}
