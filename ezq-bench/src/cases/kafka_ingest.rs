//! `ingest_kafka`: how fast the records of a topic become events of a queue.
//!
//! The reference reads the same records with a bare consumer of the same client, and stores 500 at a time with
//! `pgmq.send_batch`. It remembers no position. Joining a group takes a cluster seconds, so a run lasts from the
//! first transaction that stores rows to the last, and counts the rows of all but the first.

use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, PgConnection, query_as, query_scalar};
use ezq_kafka::KafkaSource;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use tokio::sync::Mutex;

use crate::bodies::Bodies;
use crate::case::Case;
use crate::cases::kafka::{BATCH, Cluster, EVENTS, PARTITIONS, check_topic, producer, send};
use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Figures, Outcome, Target};
use crate::pairs::{Pairs, Run};
use crate::payload::Payload;
use crate::queues::{checkpoint, create, drop_queue};

pub(super) const CASE: Case = Case {
    name: "ingest_kafka",
    about: "the records of a topic taken in; against bare reads and send_batch of 500",
    unit: "events/s",
    target: Some(Target::AtLeast(0.7)),
    run: |options, database| Box::pin(run(options, database)),
};

const TOPIC: &str = "bench_ingest_kafka";

async fn run(options: &Options, database: &Database) -> Result<Vec<Outcome>> {
    let events = options.events.unwrap_or(EVENTS);
    let cluster = MockCluster::new(3)?;
    fill(&cluster, events).await?;
    let ezq = Ezq::builder()
        .database_url(database.url())
        .without_discovered_handlers()
        .connect()
        .await?;
    let plain = Mutex::new(database.connect().await?);

    let pairs = Pairs::measure(
        CASE.name,
        options.pairs(),
        |n| ingest(&ezq, &cluster, events, n),
        |n| read_and_send(&ezq, &plain, &cluster, events, n),
    )
    .await?;

    ezq.close().await;
    let mut settings = database.settings().await?;
    settings.insert("events".into(), json!(events));
    settings.insert("batch".into(), json!(BATCH));
    settings.insert("partitions".into(), json!(PARTITIONS));
    Ok(vec![Outcome::of(
        CASE.measure(),
        Figures::Pairs(pairs),
        settings,
    )])
}

/// Puts the events into the topic, which every run reads.
async fn fill(cluster: &Cluster, events: usize) -> Result<()> {
    cluster.create_topic(TOPIC, PARTITIONS, 3)?;
    let producer = producer(cluster)?;
    let mut bodies = Bodies::default();
    for first in (0..events).step_by(BATCH) {
        let numbers = first..events.min(first + BATCH);
        let batch: Vec<String> = numbers
            .map(|n| bodies.next(&Payload::new(n)))
            .collect::<Result<_>>()?;
        send(&producer, TOPIC, batch.iter().map(String::as_str)).await?;
    }
    check_topic(cluster, TOPIC, events)
}

async fn ingest(ezq: &Ezq, cluster: &Cluster, events: usize, n: usize) -> Result<Run> {
    let queue = format!("bench_ingest_kafka_ezq_{n}");
    create(ezq, &queue).await?;
    checkpoint(ezq).await;
    // A group of its own, so it begins at the start of the topic.
    let url = format!("kafka://{}", cluster.bootstrap_servers());
    let source = KafkaSource::new(&url, format!("bench-{n}"), [TOPIC])?;

    let report = ezq
        .ingest(source)
        .into(queue.as_str())
        .batch_size(BATCH)
        .until_idle()
        .run()
        .await?;
    check("what the ingest reports", report.stored, events)?;
    let run = stored_after_the_first(ezq, &queue).await?;
    drop_queue(ezq, &queue, events).await?;
    Ok(run)
}

async fn read_and_send(
    ezq: &Ezq,
    connection: &Mutex<PgConnection>,
    cluster: &Cluster,
    events: usize,
    n: usize,
) -> Result<Run> {
    let queue = format!("bench_ingest_kafka_plain_{n}");
    create(ezq, &queue).await?;
    checkpoint(ezq).await;
    let mut connection = connection.lock().await;
    let consumer = consumer(cluster)?;

    let began = Instant::now();
    let mut stored = 0;
    let mut batch = Vec::with_capacity(BATCH);
    while stored < events {
        // A hang would be a run without an end.
        if began.elapsed() > Duration::from_secs(300) {
            return Err("the records do not come".into());
        }
        // It blocks the thread, as the loop of a program without a runtime does.
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let body = message?.payload().unwrap_or_default().to_vec();
            batch.push(String::from_utf8(body)?);
        }
        // The last batch may be smaller.
        if batch.len() < BATCH && stored + batch.len() < events {
            continue;
        }
        let ids: Vec<i64> = query_scalar("select pgmq.send_batch($1, $2::text[]::jsonb[])")
            .bind(&queue)
            .bind(&batch)
            .fetch_all(&mut *connection)
            .await?;
        stored += ids.len();
        batch.clear();
    }

    let run = stored_after_the_first(ezq, &queue).await?;
    drop_queue(ezq, &queue, events).await?;
    Ok(run)
}

fn consumer(cluster: &Cluster) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "bench-plain")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;

    // Without a group: nobody else reads.
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// The rows that were stored after those of the first transaction, and in which time.
///
/// A row's time is that of its transaction, so with one transaction there is nothing to measure.
async fn stored_after_the_first(ezq: &Ezq, queue: &str) -> Result<Run> {
    let sql = format!(
        "with first as (select min(enqueued_at) as at from pgmq.q_{queue})
         select count(*), coalesce(extract(epoch from max(enqueued_at) - min(first.at)), 0)::float8
         from pgmq.q_{queue}, first where enqueued_at > first.at"
    );
    let (rows, seconds): (i64, f64) = query_as(AssertSqlSafe(sql)).fetch_one(ezq.pool()).await?;
    Ok(Run {
        events: usize::try_from(rows)?,
        took: Duration::from_secs_f64(seconds),
    })
}
