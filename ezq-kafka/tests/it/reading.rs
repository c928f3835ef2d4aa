//! What the source gives, from where, and who gets which partition.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ezq::ErrorKind;
use ezq::broker::{Arrival, Inbound, Source, SourcePosition};
use ezq_kafka::KafkaSource;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaRespErr as Fault;

use crate::server::{Cluster, Program, Server, free_port};

const LIMIT: Duration = Duration::from_secs(40);

/// A plain producer.
pub(crate) fn producer(brokers: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all");
    config.create().unwrap()
}

/// Stores numbers in a partition.
pub(crate) fn produce(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    numbers: std::ops::Range<u32>,
) {
    for number in numbers {
        let value = number.to_string();
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).payload(&value);
        let sent = producer.send(record.partition(partition));
        sent.map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(LIMIT).unwrap();
}

/// A source whose partitions were sought to what is given, and all others to where they begin.
async fn next_messages(
    source: &mut KafkaSource,
    stored: &BTreeMap<String, SourcePosition>,
) -> Vec<Inbound> {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        match source.next(500).await.unwrap() {
            Arrival::Assigned(partitions) => {
                for partition in partitions {
                    let after = stored.get(&partition).copied();
                    source.seek(&partition, after).await.unwrap();
                }
            }
            Arrival::Messages(messages) if !messages.is_empty() => return messages,
            _ => {}
        }
    }
    panic!("nothing came");
}

/// Reads so many messages, and checks that those of each partition come in their order.
pub(crate) async fn read(source: &mut KafkaSource, count: usize) -> Vec<Inbound> {
    let mut all = Vec::new();
    let mut newest = BTreeMap::new();
    while all.len() < count {
        for message in next_messages(source, &newest).await {
            let position = message.position();
            let before = newest.insert(message.partition().to_owned(), position);
            assert!(before < Some(position), "{message:?}");
            all.push(message);
        }
    }
    all
}

fn bodies(messages: &[Inbound]) -> Vec<&str> {
    let bodies = messages.iter().map(Inbound::body);
    bodies
        .map(|body| std::str::from_utf8(body).unwrap())
        .collect()
}

/// A source whose place in its group is soon free. The cluster waits for that even if it was left.
fn source(url: &str) -> KafkaSource {
    let join = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{join}session.timeout.ms=4000");
    KafkaSource::new(&url, "shop", ["orders"]).unwrap()
}

#[tokio::test]
async fn a_message_is_what_the_record_is() {
    let cluster = Cluster::start();
    cluster.create_topic("orders", 1);
    let producer = producer(&cluster.brokers());
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "kind",
            value: Some("paid"),
        })
        .insert(Header {
            key: "empty",
            value: None::<&str>,
        });
    let full = BaseRecord::to("orders").key("ada").payload("{}");
    let full = full.headers(headers).timestamp(1_764_241_200_123);
    producer.send(full).map_err(|(error, _)| error).unwrap();
    // A tombstone, of a key that is no text, without headers.
    let tombstone: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("orders").key(&[0xff, 0x00]);
    producer
        .send(tombstone)
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(LIMIT).unwrap();

    let mut source = source(&cluster.url());
    assert_eq!(source.name(), "kafka/shop");
    let messages = read(&mut source, 2).await;
    let [full, tombstone] = &*messages else {
        panic!("{messages:?}")
    };
    assert_eq!(full.partition(), "orders/0");
    assert_eq!(full.position(), SourcePosition::from(0));
    assert_eq!(full.ordering_key(), Some("ada"));
    assert_eq!(full.body(), b"{}");
    assert_eq!(full.header_text("kind"), Some("paid"));
    assert_eq!(full.header_text("empty"), Some(""));
    assert_eq!(
        full.stored_time().unwrap().timestamp_millis(),
        1_764_241_200_123
    );
    assert_eq!(tombstone.position(), SourcePosition::from(1));
    assert_eq!(tombstone.ordering_key(), Some("ff00"));
    assert_eq!(tombstone.body(), b"");
    assert!(tombstone.headers().is_empty());
    let event = tombstone.to_envelope("shop", Some("order.gone")).unwrap();
    assert_eq!((event.data(), event.id()), (None, "shop/orders/0/1"));
    source.close().await;
}

#[tokio::test]
async fn a_partition_goes_on_behind_the_position_that_it_is_given() {
    let cluster = Cluster::start();
    cluster.create_topic("orders", 1);
    let producer = producer(&cluster.brokers());
    produce(&producer, "orders", 0, 0..3_000);
    let mut source = source(&cluster.url());
    read(&mut source, 500).await;

    // More was fetched, of which nothing may come.
    for after in [Some(9), None, Some(2_999)] {
        let after = after.map(SourcePosition::from);
        assert_eq!(source.seek("orders/0", after).await.unwrap(), after);
        if after == Some(SourcePosition::from(2_999)) {
            produce(&producer, "orders", 0, 3_000..3_001);
        }
        let messages = next_messages(&mut source, &BTreeMap::new()).await;
        let first = after.map_or(0, |position| position.major() + 1);
        assert_eq!(bodies(&messages)[0], first.to_string());
    }

    // What the group has committed changes nothing of that.
    let committed = [("orders/0".to_owned(), SourcePosition::from(100))];
    source.commit(&committed).await.unwrap();
    let error = source
        .seek("orders/0", Some(SourcePosition::from(9_999)))
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("`orders/0`"), "{error}");
    // A partition of somebody else.
    let foreign = Some(SourcePosition::from(5));
    assert_eq!(source.seek("orders/7", foreign).await.unwrap(), foreign);
}

#[tokio::test]
async fn a_partition_without_a_position_begins_where_the_group_is_or_as_configured() {
    let cluster = Cluster::start();
    cluster.create_topic("orders", 1);
    let producer = producer(&cluster.brokers());
    produce(&producer, "orders", 0, 0..10);

    let mut first = source(&cluster.url());
    assert_eq!(bodies(&read(&mut first, 1).await)[0], "0");
    let stored = [("orders/0".to_owned(), SourcePosition::from(3))];
    first.commit(&stored).await.unwrap();
    // The broker is told while the source goes on.
    first.next(1).await.unwrap();
    first.close().await;
    let mut second = source(&cluster.url());
    assert_eq!(bodies(&read(&mut second, 1).await)[0], "4");

    let at_end = KafkaSource::new(&cluster.url(), "other", ["orders"]).unwrap();
    let mut at_end = at_end.from_end();
    let Arrival::Assigned(partitions) = at_end.next(10).await.unwrap() else {
        panic!("no partition");
    };
    let chosen = at_end.seek(&partitions[0], None).await.unwrap();
    assert_eq!(chosen, Some(SourcePosition::from(9)));
    produce(&producer, "orders", 0, 10..11);
    assert_eq!(bodies(&read(&mut at_end, 1).await), ["10"]);
}

#[tokio::test]
async fn a_source_whose_messages_are_not_taken_stays_in_its_group() {
    let cluster = Cluster::start();
    cluster.create_topic("orders", 1);
    produce(&producer(&cluster.brokers()), "orders", 0, 0..5_000);
    let limits = "max.poll.interval.ms=4000&heartbeat.interval.ms=500";
    let mut source = source(&format!("{}?{limits}", cluster.url()));
    let mut all = read(&mut source, 1).await;
    tokio::time::sleep(Duration::from_secs(7)).await;

    while all.len() < 5_000 {
        match source.next(500).await.unwrap() {
            Arrival::Messages(messages) => all.extend(messages),
            other => panic!("it was thrown out: {other:?}"),
        }
    }
    let expected: Vec<_> = (0..5_000).map(|n: u32| n.to_string()).collect();
    assert_eq!(bodies(&all), expected);
}

#[tokio::test]
async fn members_of_a_group_share_the_partitions_and_inherit_them() {
    let test = "reading::members_of_a_group_share_the_partitions_and_inherit_them";
    let Some(server) = Server::start(test, Program::Tansu) else {
        return;
    };
    // It makes the topic with four partitions.
    let producer = producer(&server.brokers());
    for partition in 0..4 {
        produce(&producer, "orders", partition, 0..5);
    }
    let url = format!("{}?session.timeout.ms=6000", server.url());
    let source = |url| KafkaSource::new(url, "shop", ["orders"]).unwrap();
    let mut first = source(&url);
    let alone = partitions(&mut first, 4).await;
    assert_eq!(alone, ["orders/0", "orders/1", "orders/2", "orders/3"]);

    let mut second = source(&url);
    let (mut one, other) = tokio::join!(partitions(&mut first, 2), partitions(&mut second, 2));
    one.extend(other);
    one.sort();
    assert_eq!(one, alone);

    second.close().await;
    assert_eq!(partitions(&mut first, 4).await, alone);
}

/// Waits until a source has so many partitions.
async fn partitions(source: &mut KafkaSource, count: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < LIMIT, "not {count} partitions");
        if let Ok(Arrival::Assigned(mut partitions)) = source.next(1).await
            && partitions.len() == count
        {
            partitions.sort();
            return partitions;
        }
    }
}

#[tokio::test]
async fn an_outage_of_the_cluster_is_an_error_and_then_goes_on_without_a_gap() {
    let cluster = Cluster::start();
    cluster.create_topic("orders", 1);
    let producer = producer(&cluster.brokers());
    produce(&producer, "orders", 0, 0..10);
    let mut source = source(&cluster.url());
    assert_eq!(read(&mut source, 10).await.len(), 10);

    cluster.go_down();
    let began = Instant::now();
    let error = loop {
        assert!(began.elapsed() < LIMIT, "no error");
        if let Err(error) = source.next(10).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    cluster.come_up();
    produce(&producer, "orders", 0, 10..20);

    let mut rest = Vec::new();
    let mut after = Some(SourcePosition::from(9));
    while rest.len() < 10 {
        assert!(began.elapsed() < LIMIT, "{} of 10", rest.len());
        // As an ingest does after each failure.
        if source.seek("orders/0", after).await.is_err() {
            continue;
        }
        while let Ok(Arrival::Messages(messages)) = source.next(10).await {
            after = messages.last().map(Inbound::position).or(after);
            rest.extend(messages);
            if rest.len() >= 10 {
                break;
            }
        }
    }
    let expected: Vec<_> = (10..20).map(|n: u32| n.to_string()).collect();
    assert_eq!(bodies(&rest), expected);
}

#[tokio::test]
async fn a_topic_that_is_missing_is_an_error_that_says_what_to_do() {
    let cluster = Cluster::start();
    cluster.fail_topic("orders", Fault::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    let mut source = source(&cluster.url());
    let began = Instant::now();
    let error = loop {
        assert!(began.elapsed() < LIMIT, "no error");
        if let Err(error) = source.next(10).await {
            break error;
        }
    };
    // It may be made later.
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.to_string().contains("create it"), "{error}");
    assert!(error.to_string().contains("\"orders\""), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_absent_and_arguments_that_are_wrong_are_errors() {
    let port = free_port();
    let mut source = source(&format!("kafka://ada:secret-word@127.0.0.1:{port}"));
    let error = source.next(10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert!(!format!("{error:?} {source:?}").contains("secret-word"));
    assert!(source.health_check().await.is_err());
    source.close().await;

    let none: [&str; 0] = [];
    for wrong in [
        KafkaSource::new("kafka://host", "", ["orders"]),
        KafkaSource::new("kafka://host", "shop", none),
        KafkaSource::new("kafka://host?group.id=other", "shop", ["orders"]),
        KafkaSource::new("kafka://host?enable.auto.commit=true", "shop", ["orders"]),
    ] {
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Configuration);
    }
}
