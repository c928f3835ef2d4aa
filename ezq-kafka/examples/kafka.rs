//! A shop whose events reach a topic of Kafka, and a warehouse that takes them in again:
//! `cargo run -p ezq-kafka --example kafka`.
//!
//! The shop publishes into its outbox, in the transaction of its data if it likes. A relay sends the outbox to
//! the topic `orders`. The warehouse reads that topic as a member of the consumer group `warehouse`, and stores
//! each message once in a queue of its own, where a handler gets it with retries and dead letters.
//!
//! The example needs neither a database nor a cluster: without `DATABASE_URL` it starts a Postgres, and without
//! `KAFKA_URL`, such as `kafka://user:password@host:9092`, it uses librdkafka's own cluster in this process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq_kafka::{KafkaSink, KafkaSource};
use rdkafka::mocking::MockCluster;
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "outbox", key = "customer")]
struct OrderPlaced {
    customer: String,
    items: u32,
}

const ORDERS: usize = 6;

/// How many orders the warehouse has packed.
static PACKED: AtomicUsize = AtomicUsize::new(0);

#[on_event(queue = "warehouse")]
async fn pack(order: OrderPlaced) {
    println!(
        "warehouse: packed {} items for {}",
        order.items, order.customer
    );
    PACKED.fetch_add(1, Ordering::Relaxed);
}

#[tokio::main]
async fn main() -> Result<()> {
    // Kept until the end: it is the cluster, unless there is a real one.
    let own_cluster = match std::env::var("KAFKA_URL") {
        Ok(_) => None,
        Err(_) => Some(MockCluster::new(1)?),
    };
    let url = match &own_cluster {
        Some(cluster) => format!("kafka://{}", cluster.bootstrap_servers()),
        None => std::env::var("KAFKA_URL")?,
    };

    let sink = KafkaSink::connect(&url).await?;
    let relay = Relay::new("outbox", sink).route("order.*", "orders")?;
    let ezq = Ezq::builder().register(relay).connect().await?;
    for n in 0..ORDERS {
        let customer = ["ada", "linus", "grace"][n % 3].to_owned();
        let items = u32::try_from(n)? + 1;
        println!("shop: {customer} orders {items} items");
        ezq.publish(&OrderPlaced { customer, items }).await?;
    }

    // Services would run both without an end. This program goes on when the outbox is empty.
    let sent = ezq.consumer().queue("outbox").until_idle().run().await?;
    println!("relay: {sent}");

    // A member that joins a group waits for others for a few seconds.
    let source = KafkaSource::new(&url, "warehouse", ["orders"])?;
    let ingest = ezq.ingest(source).into("warehouse").spawn();
    let warehouse = ezq.consumer().queue("warehouse").spawn();
    let began = Instant::now();
    while PACKED.load(Ordering::Relaxed) < ORDERS {
        if began.elapsed() > Duration::from_secs(60) {
            return Err("the orders did not arrive".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ingest.stop();
    println!("ingest: {}", ingest.await?);
    warehouse.stop();
    println!("warehouse: {}", warehouse.await?);
    ezq.close().await;
    Ok(())
}
