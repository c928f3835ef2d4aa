//! The sink and the source pass the suites that every sink and every source passes.

use std::sync::{Arc, Mutex, PoisonError};

use ezq::async_trait;
use ezq::broker::{Arrival, Inbound, Outbound, Sink, Source};
use ezq_conformance::brokers::{ServerStep, SinkHarness, SourceHarness, run_sink, run_source};
use ezq_conformance::matrix::{check_column, sink_column, source_column};
use ezq_redis::{RedisSink, RedisSource};

use crate::server::Server;

struct Redis(Mutex<Server>);

impl Redis {
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
}

#[async_trait]
impl SinkHarness for Redis {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(RedisSink::connect(&self.url()).await.unwrap())
    }

    async fn read(&self, topic: &str) -> Vec<Inbound> {
        let mut source = RedisSource::connect(&self.url(), [topic]).await.unwrap();
        let mut read = Vec::new();
        loop {
            match source.next(1_000).await.unwrap() {
                Arrival::Assigned(_) => drop(source.seek(topic, None).await.unwrap()),
                Arrival::Messages(messages) if messages.is_empty() => return read,
                Arrival::Messages(messages) => read.extend(messages),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A name that holds something else. Every other one becomes a stream.
    fn missing_topic(&self) -> Option<String> {
        let mut connection = self.server(|server| server.connection());
        let set = redis::cmd("SET").arg(&["occupied", "text"]).take();
        set.query::<()>(&mut connection).unwrap();
        Some("occupied".to_owned())
    }

    async fn step(&self, step: ServerStep) -> bool {
        Redis::step(self, step)
    }
}

#[async_trait]
impl SourceHarness for Redis {
    async fn source(&self, topic: &str) -> Box<dyn Source> {
        let source = RedisSource::connect(&self.url(), [topic]).await.unwrap();
        Box::new(source)
    }

    async fn put(&self, topic: &str, messages: &[Outbound]) {
        let sink = RedisSink::connect(&self.url()).await.unwrap();
        let outcomes = sink.send(messages).await.unwrap();
        assert!(messages.iter().all(|message| message.topic() == topic));
        assert!(format!("{outcomes:?}").matches("Sent").count() == messages.len());
    }

    async fn step(&self, step: ServerStep) -> bool {
        Redis::step(self, step)
    }
}

#[tokio::test]
async fn the_page_says_what_the_sink_and_the_source_can_do() {
    for server in servers("conforming::the_page_says_what_the_sink_and_the_source_can_do") {
        let redis = Redis(Mutex::new(server));
        let mut column = sink_column(redis.sink().await.capabilities());
        column.extend(source_column(redis.source("topic").await.capabilities()));
        let document = include_str!("../../../docs/brokers.md");
        assert_eq!(check_column(document, "`ezq-redis`", &column), Ok(()));
    }
}

/// The servers of this machine: Debian's, and the one that a wheel of PyPI brings.
fn servers(test: &str) -> Vec<Server> {
    let valkey = Server::valkey(test);
    Server::start(test, &[]).into_iter().chain(valkey).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_its_suite() {
    for server in servers("conforming::the_sink_passes_its_suite") {
        let report = run_sink(&Redis(Mutex::new(server))).await;
        println!("{report}");
        report.into_result().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_passes_its_suite() {
    for server in servers("conforming::the_source_passes_its_suite") {
        let report = run_source(&Redis(Mutex::new(server))).await;
        println!("{report}");
        report.into_result().unwrap();
    }
}
