//! What a topic holds, read by a plain consumer.

use std::time::{Duration, Instant};

use ezq::Envelope;
use ezq::broker::{Outbound, SendOutcome, Sink};
use ezq_kafka::KafkaSink;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// A record of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Stored {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(given, _)| given == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The id of the event, in binary content mode.
    pub(crate) fn id(&self) -> String {
        self.header("ce_id").unwrap().to_owned()
    }
}

const LIMIT: Duration = Duration::from_secs(30);

fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("group.id", "tests");
    config.set("enable.auto.commit", "false");
    config.create().unwrap()
}

/// How many records a topic has in all of its partitions.
pub(crate) fn count(brokers: &str, topic: &str) -> usize {
    let consumer = consumer(brokers);
    partitions(&consumer, topic)
        .into_iter()
        .map(|partition| {
            let (low, high) = consumer.fetch_watermarks(topic, partition, LIMIT).unwrap();
            usize::try_from(high - low).unwrap()
        })
        .sum()
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let found = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    let partitions = found.topics()[0].partitions();
    partitions.iter().map(|found| found.id()).collect()
}

/// All records of a topic, those of a partition in their order.
pub(crate) fn read(brokers: &str, topic: &str) -> Vec<Stored> {
    read_so_many(brokers, topic, count(brokers, topic))
}

/// So many records of a topic.
pub(crate) fn read_so_many(brokers: &str, topic: &str, expected: usize) -> Vec<Stored> {
    let consumer = consumer(brokers);
    let mut list = TopicPartitionList::new();
    for partition in partitions(&consumer, topic) {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();

    let began = Instant::now();
    let mut all = Vec::new();
    while all.len() < expected {
        assert!(began.elapsed() < LIMIT, "{} of {expected}", all.len());
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().into()).unwrap();
            let all = headers.iter();
            all.map(|header| (header.key.to_owned(), text(header.value)))
                .collect()
        });
        all.push(Stored {
            partition: message.partition(),
            key: message
                .key()
                .map(|key| String::from_utf8(key.into()).unwrap()),
            headers,
            value: message.payload().map(Into::into),
        });
    }
    all
}

/// The ids of the events of a topic, those of a partition in their order.
pub(crate) fn ids(brokers: &str, topic: &str) -> Vec<String> {
    read(brokers, topic).iter().map(Stored::id).collect()
}

pub(crate) fn message(topic: &str, n: u32) -> Outbound {
    let data = format!(r#"{{"n":{n},"big":123456789012345678901234567890}}"#);
    let envelope = Envelope::builder("step", "shop").id(format!("event-{n}"));
    Outbound::new(topic, envelope.json(&data).unwrap().build().unwrap())
}

pub(crate) fn is_sent(outcome: &SendOutcome) -> bool {
    matches!(outcome, SendOutcome::Sent)
}

/// What became of each message, in a word.
pub(crate) async fn outcomes(sink: &KafkaSink, batch: &[Outbound]) -> Vec<&'static str> {
    let outcomes = sink.send(batch).await.unwrap();
    let words = outcomes.iter().map(|outcome| match outcome {
        SendOutcome::Sent => "sent",
        SendOutcome::Rejected(_) => "rejected",
        _ => "failed",
    });
    words.collect()
}
