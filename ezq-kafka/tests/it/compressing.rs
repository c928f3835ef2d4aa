//! Compressed records: written by a plain client and read by the source, and written by the sink.

use ezq::broker::{Inbound, Outbound};
use ezq_kafka::{KafkaSink, KafkaSource};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::gate::Gate;
use crate::reading::read;
use crate::records::{outcomes, read_so_many};
use crate::server::{Cluster, Program, Server};

/// What this build can do.
fn compressions() -> Vec<&'static str> {
    let all = [
        ("lz4", true),
        ("snappy", true),
        ("gzip", cfg!(feature = "gzip")),
        ("zstd", cfg!(feature = "zstd")),
    ];
    let known = all.into_iter().filter(|(_, is_built_in)| *is_built_in);
    known.map(|(name, _)| name).collect()
}

/// A text that a compression makes much smaller.
fn text(number: usize) -> String {
    format!("\"{number} {}\"", "x".repeat(1_000))
}

/// Writes so many records by a plain client, all of them in one set.
fn write(brokers: &str, topic: &str, compression: &str, count: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("compression.type", compression);
    config.set("linger.ms", "200");
    let producer: BaseProducer = config.create().unwrap();
    for number in 0..count {
        let value = text(number);
        let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).payload(&value);
        let sent = producer.send(record.partition(0));
        sent.map_err(|(error, _)| error).unwrap();
    }
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
}

/// Reads so many records of a topic by the source, and checks what they are.
async fn check(url: &str, topic: &str, count: usize) {
    let url = format!("{url}?session.timeout.ms=6000");
    let mut source = KafkaSource::new(&url, "shop", [topic]).unwrap();
    let messages = read(&mut source, count).await;
    let bodies: Vec<&[u8]> = messages.iter().map(Inbound::body).collect();
    let expected: Vec<String> = (0..count).map(text).collect();
    let expected: Vec<&[u8]> = expected.iter().map(String::as_bytes).collect();
    assert!(bodies == expected, "{topic}: other records");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_records_are_read_from_every_kind_of_broker() {
    let test = "compressing::compressed_records_are_read_from_every_kind_of_broker";
    let cluster = Cluster::start();
    let Some(noida) = Server::start(test, Program::Noida) else {
        return;
    };
    let Some(tansu) = Server::start(test, Program::Tansu) else {
        return;
    };
    let places = [
        ("own", cluster.brokers(), cluster.url()),
        ("noida", noida.brokers(), noida.url()),
        ("tansu", tansu.brokers(), tansu.url()),
    ];
    for (name, brokers, url) in places {
        for compression in compressions() {
            let topic = format!("{name}-{compression}");
            write(&brokers, &topic, compression, 50);
            check(&url, &topic, 50).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_compresses_what_it_sends_where_the_url_says_so() {
    let test = "compressing::the_sink_compresses_what_it_sends_where_the_url_says_so";
    for compression in ["none"].into_iter().chain(compressions()) {
        let gate = Gate::new().await;
        let hosts = format!("127.0.0.1:{}", gate.port());
        let Some(server) = Server::known_as(test, &hosts) else {
            return;
        };
        let open = gate.open(server.brokers());
        let url = format!("kafka://{hosts}?compression.type={compression}");
        let sink = KafkaSink::connect(&url).await.unwrap();
        let batch: Vec<Outbound> = (0..200)
            .map(|number| {
                let envelope = ezq::Envelope::builder("step", "shop").id(format!("event-{number}"));
                Outbound::new(
                    "steps",
                    envelope.json(&text(number)).unwrap().build().unwrap(),
                )
            })
            .collect();
        assert_eq!(outcomes(&sink, &batch).await, vec!["sent"; 200]);
        let bytes = open.received();
        // The server counts a compressed set as one record, so it is told how many there are.
        assert_eq!(read_so_many(&hosts, "steps", 200).len(), 200);
        let is_small = bytes < 100_000;
        assert_eq!(
            is_small,
            compression != "none",
            "{compression}: {bytes} bytes"
        );
    }
}

/// A set of the records `2` and `3`, compressed with gzip, as it stands in a request.
#[cfg(not(feature = "gzip"))]
const COMPRESSED: &str = "\
    000000000000000000000055000000000234827f670001000000010000019ac4f853fb0000019ac4f853fbffffffff\
    ffffffffffffffffffff000000021f8b0800000000000203e363606060643262e06360606264326600003c8def4310\
    000000";

/// Stores a set in the partition 0 of a topic, as a client does that can compress.
#[cfg(not(feature = "gzip"))]
async fn store_compressed(brokers: &str, topic: &str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let set: Vec<u8> = (0..COMPRESSED.len() / 2)
        .map(|place| u8::from_str_radix(&COMPRESSED[2 * place..2 * place + 2], 16).unwrap())
        .collect();
    let length = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap().to_be_bytes();
    // Produce in version 3, the number of the request, and a client without a name.
    let mut request = vec![0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    // No transaction, all replicas, 10 s, one topic.
    request.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0x27, 0x10, 0, 0, 0, 1]);
    request.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
    request.extend(topic.as_bytes());
    // One partition, 0.
    request.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    request.extend(length(&set));
    request.extend(set);

    let mut client = tokio::net::TcpStream::connect(brokers).await.unwrap();
    client.write_all(&length(&request)).await.unwrap();
    client.write_all(&request).await.unwrap();
    let count = client.read_i32().await.unwrap();
    let mut answer = vec![0; usize::try_from(count).unwrap()];
    client.read_exact(&mut answer).await.unwrap();
    // Behind the number, the topic, and the partition stands the error.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "{answer:?}");
}

#[cfg(not(feature = "gzip"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_compression_that_is_not_built_in_is_named_and_nothing_is_left_out() {
    use crate::reading::{produce, producer};
    use ezq::broker::{Arrival, Source as _};
    use ezq::error::error_chain;

    let test = "compressing::a_compression_that_is_not_built_in_is_named_and_nothing_is_left_out";
    let error = KafkaSink::connect_lazily("kafka://host?compression.type=gzip").unwrap_err();
    assert_eq!(error.kind(), ezq::ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("feature `gzip`"), "{error}");

    let Some(server) = Server::start(test, Program::Noida) else {
        return;
    };
    let plain = producer(&server.brokers());
    produce(&plain, "orders", 0, 0..2);
    store_compressed(&server.brokers(), "orders").await;
    produce(&plain, "orders", 0, 4..6);
    let url = format!("{}?session.timeout.ms=6000", server.url());
    let mut source = KafkaSource::new(&url, "shop", ["orders"]).unwrap();
    let mut bodies = Vec::new();
    let mut errors = 0;
    let mut after = None;
    // An ingest seeks again after each failure.
    while errors < 3 {
        match source.next(10).await {
            Ok(Arrival::Messages(messages)) => {
                after = messages.last().map(Inbound::position).or(after);
                bodies.extend(messages.into_iter().map(|one| one.body().to_vec()));
            }
            Ok(_) => {
                source.seek("orders/0", after).await.unwrap();
            }
            Err(error) => {
                let text = error_chain(&error).to_string();
                assert!(text.contains("feature `gzip`"), "{text}");
                errors += 1;
                source.seek("orders/0", after).await.unwrap();
            }
        }
    }
    assert_eq!(bodies, [b"0", b"1"]);
}
