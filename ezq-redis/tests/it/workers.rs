//! What relays and ingests do in processes of their own.

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq_redis::{RedisSink, RedisSource};
use serde::{Deserialize, Serialize};

use crate::processes::Orders;

/// An event that is relayed.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "step", queue = "outbox")]
pub(crate) struct Step {
    pub(crate) n: u32,
}

/// Sends the events of `outbox` to the stream `outbox`.
pub(crate) const RELAY: &str = "relay";

/// Stores the entries of a stream in `orders`.
pub(crate) fn ingest(stream: &str) -> String {
    format!("ingest {stream}")
}

/// Not a test: what a worker's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn worker() {
    let Some(orders) = Orders::of_this_process() else {
        return;
    };
    let url = orders.servers;
    if let Some(stream) = orders.role.strip_prefix("ingest ") {
        let source = RedisSource::connect_lazily(&url, [stream]).unwrap();
        let ezq = orders.builder.connect().await.unwrap();
        let ingest = ezq.ingest(source.named("till")).into("orders").plain("n");
        ingest.batch_size(50).run().await.unwrap();
    } else {
        let sink = RedisSink::connect_lazily(&url).unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(100).rate(2_000);
        let ezq = orders.builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
    }
}
