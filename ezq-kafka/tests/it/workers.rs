//! What relays and ingests do in processes of their own.

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq_kafka::{KafkaSink, KafkaSource};
use serde::{Deserialize, Serialize};

use crate::processes::Orders;

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

/// Sends the events of `outbox` to the topic `outbox`.
pub(crate) const RELAY: &str = "relay";

/// Stores the messages of a topic in `orders`.
pub(crate) fn ingest(topic: &str) -> String {
    format!("ingest {topic}")
}

/// Not a test: what a worker's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn worker() {
    let Some(orders) = Orders::of_this_process() else {
        return;
    };
    let url = orders.servers;
    if let Some(topic) = orders.role.strip_prefix("ingest ") {
        let url = format!("{url}?session.timeout.ms=4000");
        let source = KafkaSource::new(&url, "shop", [topic]).unwrap();
        let ezq = orders.builder.connect().await.unwrap();
        let ingest = ezq.ingest(source).into("orders").plain("number");
        ingest.batch_size(50).run().await.unwrap();
    } else {
        let sink = KafkaSink::connect_lazily(&url).unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(100).rate(2_000);
        let ezq = orders.builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
    }
}
