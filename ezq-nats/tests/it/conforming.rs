//! The sink and the source pass the suites that every sink and every source passes.

use std::sync::{Arc, Mutex, PoisonError};

use ezq::async_trait;
use ezq::broker::{Arrival, Inbound, Outbound, Sink, Source};
use ezq_conformance::brokers::{ServerStep, SinkHarness, SourceHarness, run_sink, run_source};
use ezq_nats::{NatsSink, NatsSource};

use crate::server::{BOTH, Server};

/// A server, on which each topic is a subject of one stream.
struct Nats(Mutex<Server>);

const STREAM: &str = "SUITE";

impl Nats {
    fn url(&self) -> String {
        self.server(|server| server.url())
    }

    fn server<T>(&self, ask: impl FnOnce(&mut Server) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn step(&self, step: ServerStep) -> bool {
        self.server(|server| {
            match step {
                ServerStep::Kill => server.kill(),
                ServerStep::Start => server.restart(),
                ServerStep::Pause => server.signal("STOP"),
                ServerStep::Resume => server.signal("CONT"),
                _ => return false,
            }
            true
        })
    }

    /// A sink that knows of the stream, and so of the window in which it drops duplicates.
    async fn sink(&self) -> NatsSink {
        let sink = NatsSink::connect(&self.url()).await.unwrap();
        sink.stream(STREAM, &["suite.>"]).await.unwrap()
    }

    /// A source of one subject.
    fn source(&self, topic: &str) -> NatsSource {
        let source = NatsSource::new(&self.url(), STREAM).unwrap();
        source.named(topic).subject(topic)
    }
}

#[async_trait]
impl SinkHarness for Nats {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Nats::sink(self).await)
    }

    async fn read(&self, topic: &str) -> Vec<Inbound> {
        let mut source = Nats::source(self, topic);
        let mut read = Vec::new();
        loop {
            match source.next(1_000).await.unwrap() {
                Arrival::Assigned(streams) => {
                    let begin = source.seek(&streams[0], None).await.unwrap();
                    assert_eq!(begin, None, "from the beginning");
                }
                Arrival::Messages(messages) if messages.is_empty() => return read,
                Arrival::Messages(messages) => read.extend(messages),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn topic(&self, unique: String) -> String {
        format!("suite.{unique}")
    }

    fn missing_topic(&self) -> Option<String> {
        Some("absent".to_owned())
    }

    async fn step(&self, step: ServerStep) -> bool {
        Nats::step(self, step)
    }
}

#[async_trait]
impl SourceHarness for Nats {
    async fn source(&self, topic: &str) -> Box<dyn Source> {
        Box::new(Nats::source(self, topic))
    }

    async fn put(&self, topic: &str, messages: &[Outbound]) {
        let outcomes = Nats::sink(self).await.send(messages).await.unwrap();
        assert!(messages.iter().all(|message| message.topic() == topic));
        assert!(format!("{outcomes:?}").matches("Sent").count() == messages.len());
    }

    async fn topic(&self, unique: String) -> String {
        format!("suite.{unique}")
    }

    async fn step(&self, step: ServerStep) -> bool {
        Nats::step(self, step)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_its_suite() {
    for version in BOTH.into_iter().rev() {
        let test = "conforming::the_sink_passes_its_suite";
        let Some(server) = Server::start(test, version, "") else {
            continue;
        };
        let report = run_sink(&Nats(Mutex::new(server))).await;
        println!("{version:?}: {report}");
        report.into_result().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_passes_its_suite() {
    for version in BOTH.into_iter().rev() {
        let test = "conforming::the_source_passes_its_suite";
        let Some(server) = Server::start(test, version, "") else {
            continue;
        };
        let report = run_source(&Nats(Mutex::new(server))).await;
        println!("{version:?}: {report}");
        report.into_result().unwrap();
    }
}
