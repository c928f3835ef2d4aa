//! What relays and ingests do in processes of their own.

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq_nats::{NatsConfig, NatsSink, NatsSource};
use serde::{Deserialize, Serialize};

use crate::processes::Orders;

/// An event that is relayed.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "step", queue = "outbox")]
pub(crate) struct Step {
    pub(crate) n: u32,
}

/// Sends the events of `outbox` to the subject `outbox`.
pub(crate) const RELAY: &str = "relay";
/// Stores the messages of the stream `OUTBOX` in `orders`.
pub(crate) const INGEST: &str = "ingest";

/// Not a test: what a worker's process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn worker() {
    let Some(orders) = Orders::of_this_process() else {
        return;
    };
    let config = NatsConfig::new(&orders.servers).unwrap();
    if orders.role == RELAY {
        let sink = NatsSink::connect_lazily(&config).await.unwrap();
        // Slow enough to be killed in the middle.
        let relay = Relay::new("outbox", sink).batch_size(50).rate(300);
        let ezq = orders.builder.register(relay).connect().await.unwrap();
        ezq.consumer().queue("outbox").run().await.unwrap();
    } else {
        let source = NatsSource::with_config(config, "OUTBOX").unwrap();
        let ezq = orders.builder.connect().await.unwrap();
        let ingest = ezq.ingest(source).into("orders").plain("number");
        ingest.batch_size(50).run().await.unwrap();
    }
}
