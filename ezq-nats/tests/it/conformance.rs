//! The suite that every engine passes, with two clients of a real server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, HeaderValue};
use ezq::ErrorKind;
use ezq::async_trait;
use ezq::engine::Engine;
use ezq::message::QueueName;
use ezq_conformance::Harness;
use ezq_conformance::matrix::{check_column, engine_column};
use ezq_nats::{JetStreamEngine, NatsConfig};

use crate::server::{Server, Version};

/// Two clients of the engine, and one that knows nothing of ezq.
struct Clients {
    engine: Arc<JetStreamEngine>,
    second: Arc<JetStreamEngine>,
    context: Context,
}

/// An engine whose server does not wait long for a worker that has died.
pub(crate) async fn engine(url: &str, ack_wait: Duration) -> JetStreamEngine {
    let config = NatsConfig::new(url).unwrap();
    let builder = JetStreamEngine::builder(config).ack_wait(ack_wait);
    builder.connect().await.unwrap()
}

#[async_trait]
impl Harness for Clients {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    async fn second(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.second) as Arc<dyn Engine>
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let mut map = HeaderMap::new();
        if let Some(json) = headers {
            map.insert("Ezq-Headers", json.parse::<HeaderValue>().unwrap());
        }
        let subject = format!("ezq.{queue}.ready.now");
        let body = body.to_owned().into();
        let sent = self.context.publish_with_headers(subject, map, body).await;
        sent.unwrap().await.is_ok()
    }

    /// A lease that ends is given back to the server, and a message that falls due is moved by it. Both
    /// take up to a quarter of a second, as the crate's README says.
    async fn advance(&self, time: Duration) {
        tokio::time::sleep(time + Duration::from_millis(250)).await;
    }

    async fn discard(&self, queue: &QueueName) {
        for stream in [format!("ezq_{queue}"), format!("ezq-dead_{queue}")] {
            self.context.delete_stream(stream).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_but_for_what_it_declares_absent() {
    let test = "conformance::passes_the_suite_but_for_what_it_declares_absent";
    // Bodies of 1 MiB and room for headers.
    let Some(server) = Server::start(test, Version::V2_15, "max_payload: 2097152") else {
        return;
    };
    let wait = Duration::from_secs(5);
    let clients = Clients {
        engine: Arc::new(engine(&server.url(), wait).await),
        second: Arc::new(engine(&server.url(), wait).await),
        context: jetstream::new(async_nats::connect(server.url()).await.unwrap()),
    };

    let report = ezq_conformance::run(&clients).await;
    println!("{report}");
    let skipped: BTreeSet<_> = report.skipped().map(|(_, why)| why.to_owned()).collect();
    let column = engine_column(&report);
    report.into_result().unwrap();
    let document = include_str!("../../../docs/growing.md");
    assert_eq!(check_column(document, "JetStream", &column), Ok(()));
    let skipped: Vec<_> = skipped.iter().map(String::as_str).collect();
    assert_eq!(skipped, ABSENT);
}

/// Why cases are skipped: each is a capability that the engine declares absent.
const ABSENT: &[&str] = &[
    "the engine cannot be browsed",
    "the engine does not act on events",
    "the engine does not broadcast",
    "the engine does not offer `archive`",
    "the engine does not offer `dedupe`",
    "the engine does not offer `keys`",
    "the engine does not offer `movable`",
    "the engine does not offer `ordered`",
    "the engine does not offer `receipts that the store checks`",
    "the engine does not offer `schedules`",
    "the engine does not offer `transactions`",
    "the engine does not tell when the next message falls due",
    "the engine has no cancellations",
    "the engine has no overview",
    "the engine has no pauses",
    "the engine keeps no consumers",
    "the engine leases no message by its id",
    "the engine tells no event's history",
    "the store issues no id again",
];

#[tokio::test]
async fn an_older_server_is_refused() {
    let test = "conformance::an_older_server_is_refused";
    let Some(server) = Server::start(test, Version::V2_9, "") else {
        return;
    };
    let error = JetStreamEngine::connect(&server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("is 2.9") && text.contains("2.12 or newer"),
        "{text}"
    );
}
