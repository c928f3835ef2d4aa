//! The sink and the source pass the suites that every sink and every source passes.

use std::sync::Arc;
use std::time::Duration;

use ezq::async_trait;
use ezq::broker::{Inbound, Outbound, Sink, Source, SourcePosition};
use ezq_conformance::brokers::{ServerStep, SinkHarness, SourceHarness, run_sink, run_source};
use ezq_conformance::matrix::{check_column, sink_column, source_column};
use ezq_kafka::{KafkaSink, KafkaSource};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr as Fault;

use crate::reading::producer;
use crate::records::{is_sent, read};
use crate::server::{Cluster, Program, Server};

struct Kafka(Cluster);

impl Kafka {
    fn step(&self, step: ServerStep) -> bool {
        match step {
            ServerStep::Kill => self.0.go_down(),
            ServerStep::Start => self.0.come_up(),
            ServerStep::Pause => self.0.answer_after(Duration::from_secs(3_600)),
            ServerStep::Resume => self.0.answer_after(Duration::ZERO),
            _ => return false,
        }
        true
    }
}

#[async_trait]
impl SinkHarness for Kafka {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(KafkaSink::connect(&self.0.url()).await.unwrap())
    }

    async fn read(&self, topic: &str) -> Vec<Inbound> {
        let records = read(&self.0.brokers(), topic).into_iter().enumerate();
        let messages = records.map(|(n, record)| {
            let position = SourcePosition::from(n as u64);
            let message = Inbound::new("0", position, record.value.unwrap());
            let message = match record.key {
                Some(key) => message.key(key),
                None => message,
            };
            record
                .headers
                .into_iter()
                .fold(message, |message, (name, value)| {
                    message.header(name, value)
                })
        });
        messages.collect()
    }

    async fn topic(&self, unique: String) -> String {
        self.0.create_topic(&unique, 1);
        unique
    }

    fn missing_topic(&self) -> Option<String> {
        let missing = Fault::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        self.0.fail_topic("absent", missing);
        Some("absent".to_owned())
    }

    async fn step(&self, step: ServerStep) -> bool {
        Kafka::step(self, step)
    }
}

/// Puts messages into a topic, through the sink.
async fn put(url: &str, topic: &str, messages: &[Outbound]) {
    let sink = KafkaSink::connect(url).await.unwrap();
    let outcomes = sink.send(messages).await.unwrap();
    assert!(messages.iter().all(|message| message.topic() == topic));
    assert!(outcomes.iter().all(is_sent), "{outcomes:?}");
}

#[async_trait]
impl SourceHarness for Kafka {
    async fn source(&self, topic: &str) -> Box<dyn Source> {
        let url = format!("{}?session.timeout.ms=4000", self.0.url());
        Box::new(KafkaSource::new(&url, topic, [topic]).unwrap())
    }

    async fn put(&self, topic: &str, messages: &[Outbound]) {
        put(&self.0.url(), topic, messages).await;
    }

    async fn topic(&self, unique: String) -> String {
        self.0.create_topic(&unique, 3);
        unique
    }

    async fn step(&self, step: ServerStep) -> bool {
        Kafka::step(self, step)
    }
}

#[tokio::test]
async fn the_page_says_what_the_sink_and_the_source_can_do() {
    let kafka = Kafka(Cluster::start());
    let mut column = sink_column(kafka.sink().await.capabilities());
    let source = KafkaSource::new("kafka://127.0.0.1:1", "group", ["topic"]).unwrap();
    column.extend(source_column(source.capabilities()));
    let document = include_str!("../../../docs/brokers.md");
    assert_eq!(check_column(document, "`ezq-kafka`", &column), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sink_passes_its_suite() {
    let report = run_sink(&Kafka(Cluster::start())).await;
    println!("{report}");
    report.into_result().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_passes_its_suite_with_outages() {
    // The cluster lets each new member of a group wait for some seconds. Outages are in other tests as well.
    if std::env::var_os("SOAK_SECONDS").is_none() {
        eprintln!(
            "LEFT OUT the_source_passes_its_suite_with_outages: it takes minutes (SOAK_SECONDS)"
        );
        return;
    }
    let report = run_source(&Kafka(Cluster::start())).await;
    println!("{report}");
    report.into_result().unwrap();
}

/// A broker in a process of its own. It forgets what it stored when it is killed, so it is only paused.
struct Other(Server);

#[async_trait]
impl SourceHarness for Other {
    async fn source(&self, topic: &str) -> Box<dyn Source> {
        let url = format!("{}?session.timeout.ms=6000", self.0.url());
        Box::new(KafkaSource::new(&url, topic, [topic]).unwrap())
    }

    async fn put(&self, topic: &str, messages: &[Outbound]) {
        put(&self.0.url(), topic, messages).await;
    }

    async fn topic(&self, unique: String) -> String {
        // It makes a topic that a producer asks for, and none that a consumer does.
        let producer = producer(&self.0.brokers());
        let limit = Duration::from_secs(10);
        let asked = producer.client().fetch_metadata(Some(&unique), limit);
        asked.unwrap();
        unique
    }

    async fn step(&self, step: ServerStep) -> bool {
        match step {
            ServerStep::Pause => self.0.signal("STOP"),
            ServerStep::Resume => self.0.signal("CONT"),
            _ => return false,
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_passes_its_suite() {
    let test = "conforming::the_source_passes_its_suite";
    let Some(server) = Server::start(test, Program::Noida) else {
        return;
    };
    let report = run_source(&Other(server)).await;
    println!("{report}");
    report.into_result().unwrap();
}
