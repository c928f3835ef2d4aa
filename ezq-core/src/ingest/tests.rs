//! Ingests from a broker that keeps its messages in this process, into a memory engine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::sleep;

use crate::app::App;
use crate::broker::{Arrival, Inbound, Source, SourceCapabilities, SourcePosition};
use crate::engine::DeadLetters as _;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::IngestState;
use crate::memory::MemoryEngine;
use crate::message::headers::{INGEST, INGEST_HEADERS, KEY, TRACEPARENT};
use crate::message::{QueueName, ReasonKind};

type Message = (Vec<u8>, Vec<(String, String)>);

/// A broker of one partition.
#[derive(Clone, Default)]
struct Broker(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    messages: Vec<Message>,
    /// How many calls are to fail, and how.
    failing: usize,
    kind: Option<ErrorKind>,
    committed: Vec<u64>,
    sought: Vec<Option<u64>>,
}

impl Broker {
    fn with(messages: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let broker = Self::default();
        for message in messages {
            broker.put(message, &[]);
        }
        broker
    }

    fn put(&self, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let message = (body.into(), headers.collect());
        self.0.lock().unwrap().messages.push(message);
    }

    fn fail(&self, times: usize, kind: ErrorKind) {
        let mut held = self.0.lock().unwrap();
        held.failing = times;
        held.kind = Some(kind);
    }

    fn source(&self) -> Numbered {
        Numbered {
            broker: self.clone(),
            next: None,
        }
    }
}

struct Numbered {
    broker: Broker,
    next: Option<usize>,
}

#[async_trait]
impl Source for Numbered {
    fn name(&self) -> &str {
        "numbered"
    }

    fn capabilities(&self) -> &SourceCapabilities {
        const { &SourceCapabilities::new("numbered").commits() }
    }

    async fn next(&mut self, max: usize) -> Result<Arrival> {
        let Some(next) = self.next else {
            return Ok(Arrival::Assigned(vec!["p".to_owned()]));
        };
        let found: Vec<Inbound> = {
            let mut held = self.broker.0.lock().unwrap();
            if held.failing > 0 {
                held.failing -= 1;
                let kind = held.kind.unwrap_or(ErrorKind::Connection);
                return Err(Error::new(kind, "the broker is away"));
            }
            let rest = held.messages.iter().enumerate().skip(next).take(max);
            rest.map(|(place, (body, headers))| {
                let message = Inbound::new("p", SourcePosition::from(place as u64), body.clone());
                headers
                    .iter()
                    .fold(message, |message, (name, value)| match &**name {
                        "key" => message.key(value),
                        _ => message.header(name, value.as_bytes()),
                    })
            })
            .collect()
        };
        self.next = Some(next + found.len());
        if found.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Arrival::Messages(found))
    }

    async fn seek(
        &mut self,
        _: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let after = after.map(SourcePosition::major);
        self.broker.0.lock().unwrap().sought.push(after);
        let next = after.map_or(0, |after| after + 1);
        self.next = Some(usize::try_from(next).unwrap());
        Ok(after.map(SourcePosition::from))
    }

    async fn commit(&mut self, stored: &[(String, SourcePosition)]) -> Result<()> {
        let stored = stored.iter().map(|(_, position)| position.major());
        self.broker.0.lock().unwrap().committed.extend(stored);
        Ok(())
    }
}

fn app(engine: &MemoryEngine) -> App {
    let app = App::builder().without_discovered_handlers();
    app.build(engine.clone()).unwrap()
}

fn queue() -> QueueName {
    QueueName::new("orders").unwrap()
}

/// Where the stored events came from, in their order.
fn stored(engine: &MemoryEngine) -> Vec<String> {
    let published = engine.published(&queue());
    let origins = published
        .iter()
        .map(|one| one.message.headers.text(INGEST).unwrap().to_owned());
    origins.collect()
}

fn up_to(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("numbered/p/{n}")).collect()
}

#[tokio::test(start_paused = true)]
async fn every_message_is_stored_once_and_the_broker_is_told() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::with((0..1200).map(|n| n.to_string()));
    for _ in 0..2 {
        let ingest = app.ingest(broker.source()).into("orders").plain("n");
        ingest.until_idle().run().await.unwrap();
    }
    assert_eq!(stored(&engine), up_to(1200));
    let held = broker.0.lock().unwrap();
    assert_eq!(held.committed, [499, 999, 1199]);
    assert_eq!(held.sought, [None, Some(1199)]);
}

#[tokio::test(start_paused = true)]
async fn two_ingests_at_once_store_each_message_once() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::default();
    let [one, other] = [(), ()].map(|()| {
        let ingest = app.ingest(broker.source()).into("orders").plain("n");
        ingest.spawn()
    });
    for n in 0..500 {
        broker.put(n.to_string(), &[]);
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let mut states = [one.state(), other.state()];
    states.sort_by_key(ToString::to_string);
    assert_eq!(states, [IngestState::Running, IngestState::Waiting]);

    // The one that waits takes over.
    one.stop();
    one.await.unwrap();
    broker.put("500", &[]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(other.state(), IngestState::Running);
    other.stop();
    other.await.unwrap();
    assert_eq!(stored(&engine), up_to(501));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_ridden_out_and_seen() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::with(["0", "1"]);
    broker.fail(3, ErrorKind::Connection);
    let ingest = app
        .ingest(broker.source())
        .into("orders")
        .plain("n")
        .spawn();
    sleep(Duration::from_millis(50)).await;
    let health = app.health().await;
    assert!(!health.is_ready() && health.is_live(), "{health}");
    assert!(
        health.to_string().contains("the broker is away"),
        "{health}"
    );

    sleep(Duration::from_secs(5)).await;
    assert!(app.health().await.is_ready());
    // While it runs, even an error that does not pass by itself is ridden out.
    broker.fail(2, ErrorKind::Permission);
    broker.put("2", &[]);
    sleep(Duration::from_secs(5)).await;
    ingest.stop();
    let report = ingest.await.unwrap();
    assert_eq!((report.stored, report.dead_lettered), (3, 0));
    assert_eq!(stored(&engine), up_to(3));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_does_not_pass_ends_an_ingest_that_has_read_nothing() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::default();
    broker.fail(usize::MAX, ErrorKind::Configuration);
    let ingest = app.ingest(broker.source()).into("orders").spawn();
    assert_eq!(ingest.await.unwrap_err().kind(), ErrorKind::Configuration);
    assert!(!app.health().await.is_live());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_no_event_is_kept_and_holds_up_no_other() {
    let engine = MemoryEngine::with_body_limit(300);
    let app = app(&engine);
    let broker = Broker::with(["0"]);
    broker.put("{no json", &[("key", "ada"), ("shelf", "7")]);
    broker.put(vec![0xff, 0x00], &[]);
    // Only the store finds that this one is too large.
    broker.put(format!("\"{}\"", "x".repeat(300)), &[]);
    let stop = r#"{"specversion":"1.0","id":"1","source":"s","type":"EZEndEvent"}"#;
    broker.put(stop, &[]);
    let stop = stop.replace("EZEndEvent", "ezq.end");
    broker.put(stop, &[]);
    broker.put("6", &[]);

    let ingest = app.ingest(broker.source()).into("orders").plain("n");
    let report = ingest.until_idle().run().await.unwrap();
    let letters = engine.list(&queue(), None, 10).await.unwrap();
    assert_eq!(report.dead_lettered, letters.len() as u64, "{letters:?}");
    let ingested = stored(&engine);
    assert_eq!(ingested.first().unwrap(), "numbered/p/0");
    assert_eq!(ingested.last().unwrap(), "numbered/p/6");
    assert_eq!(ingested.len() + letters.len(), 7);

    let letter = &letters[0];
    assert_eq!(letter.body, "\"e25vIGpzb24=\"");
    assert_eq!(letter.headers.text(INGEST), Some("numbered/p/1"));
    assert_eq!(letter.headers.text(KEY), Some("ada"));
    let given = letter.headers.value(INGEST_HEADERS).unwrap();
    assert_eq!(given["shelf"], "7");
    let reason = letter.reason.as_ref().unwrap();
    assert_eq!(reason.kind, ReasonKind::Undecodable);
    assert!(reason.error.contains("not JSON"), "{}", reason.error);
    let positions = engine.list_positions().await;
    assert_eq!(positions, [Some(SourcePosition::from(6))]);
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_id_key_headers_and_trace_and_sets_no_mark() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::default();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    broker.put(
        "1",
        &[
            ("key", "ada"),
            ("ce_specversion", "1.0"),
            ("ce_id", "a-1"),
            ("ce_source", "/till"),
            ("ce_type", "paid"),
            ("TraceParent", trace),
            ("shelf", "7"),
            ("ezq-h:mail", "done"),
            ("ezq-codec", "none"),
        ],
    );
    let ingest = app.ingest(broker.source()).into("orders");
    ingest.until_idle().run().await.unwrap();

    let message = &engine.published(&queue())[0].message;
    let body: Value = serde_json::from_str(&message.body).unwrap();
    assert_eq!(body["id"], "a-1");
    let headers = &message.headers;
    assert_eq!(headers.text(KEY), Some("ada"));
    assert_eq!(headers.text(TRACEPARENT), Some(trace));
    assert_eq!(headers.text("shelf"), Some("7"));
    assert!(headers.value("ezq-h:mail").is_none() && headers.value("ezq-codec").is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_out_after_a_position_was_set_back() {
    let engine = MemoryEngine::new();
    let app = app(&engine);
    let broker = Broker::with(["0", "1", "2"]);
    let ingest = app
        .ingest(broker.source())
        .into("orders")
        .plain("n")
        .spawn();
    sleep(Duration::from_secs(1)).await;
    engine.set_position("numbered", "p", Some(SourcePosition::from(0)));
    broker.put("3", &[]);
    sleep(Duration::from_secs(2)).await;
    ingest.stop();
    ingest.await.unwrap();

    let mut expected = up_to(3);
    expected.extend(up_to(4).split_off(1));
    assert_eq!(stored(&engine), expected);
}
