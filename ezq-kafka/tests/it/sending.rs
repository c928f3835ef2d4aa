//! What the sink writes, and in which order.

use std::collections::HashMap;

use ezq::ErrorKind;
use ezq::broker::{Outbound, SendOutcome, Sink};
use ezq_kafka::KafkaSink;
use serde_json::Value;

use crate::records::{Stored, ids, is_sent, message, outcomes, read, read_so_many};
use crate::server::{Cluster, Program, Server};

#[tokio::test]
async fn a_record_holds_the_event_in_binary_content_mode() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    let batch = [message("steps", 0).key("ada"), message("steps", 1)];
    assert_eq!(outcomes(&sink, &batch).await, ["sent", "sent"]);

    let stored = read(&cluster.brokers(), "steps");
    let first = stored.iter().find(|one| one.id() == "event-0").unwrap();
    assert_eq!(first.key.as_deref(), Some("ada"));
    assert_eq!(first.header("ce_specversion"), Some("1.0"));
    assert_eq!(first.header("ce_type"), Some("step"));
    assert_eq!(first.header("ce_source"), Some("shop"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("ce_datacontenttype"), None);
    let value = String::from_utf8(first.value.clone().unwrap()).unwrap();
    assert!(value.contains("123456789012345678901234567890"), "{value}");
    let second = stored.iter().find(|one| one.id() == "event-1").unwrap();
    assert_eq!(second.key, None);
}

#[tokio::test]
async fn a_record_holds_the_event_as_one_json_text_where_that_is_asked_for() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    outcomes(&sink.structured(), &[message("steps", 7)]).await;

    let stored = read(&cluster.brokers(), "steps");
    let media_type = "application/cloudevents+json; charset=UTF-8";
    assert_eq!(stored[0].header("content-type"), Some(media_type));
    let event: Value = serde_json::from_slice(stored[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(event["id"], "event-7");
}

#[tokio::test]
async fn an_event_without_data_is_no_tombstone() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    let envelope = ezq::Envelope::builder("step", "shop").build().unwrap();
    outcomes(&sink, &[Outbound::new("steps", envelope).key("ada")]).await;
    let stored = read(&cluster.brokers(), "steps");
    assert_eq!(stored[0].value.as_deref(), Some([].as_slice()));
}

/// The numbers of the events of each key, as they are stored. Checks that each key is in one partition.
fn order_of_keys(records: Vec<Stored>) -> HashMap<String, Vec<u32>> {
    let mut order = HashMap::<String, Vec<u32>>::new();
    let mut partitions = HashMap::new();
    for stored in records {
        let key = stored.key.clone().unwrap();
        let partition = partitions.entry(key.clone()).or_insert(stored.partition);
        assert_eq!(*partition, stored.partition, "{key}");
        let number = stored.id().trim_start_matches("event-").parse().unwrap();
        order.entry(key).or_default().push(number);
    }
    order
}

#[tokio::test]
async fn events_of_a_key_are_stored_in_their_order_in_one_partition() {
    let cluster = Cluster::start();
    cluster.create_topic("steps", 8);
    // A queue that is far smaller than a batch, so the sink waits for it.
    let url = format!("{}?queue.buffering.max.messages=20", cluster.url());
    let sink = KafkaSink::connect(&url).await.unwrap();
    for start in [0, 500] {
        let numbers = start..start + 500;
        let batch: Vec<_> = numbers
            .map(|n| message("steps", n).key(format!("key-{}", n % 10)))
            .collect();
        let outcomes = sink.send(&batch).await.unwrap();
        assert!(outcomes.iter().all(is_sent), "{outcomes:?}");
    }

    let order = order_of_keys(read(&cluster.brokers(), "steps"));
    assert_eq!(order.len(), 10);
    for (key, numbers) in order {
        assert_eq!(numbers.len(), 100, "{key}");
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_is_rejected_and_harms_no_other() {
    let cluster = Cluster::start();
    let url = format!("{}?message.max.bytes=10000", cluster.url());
    let sink = KafkaSink::connect(&url).await.unwrap();
    assert_eq!(sink.capabilities().max_message, Some(10_000));

    let data = format!(r#""{}""#, "x".repeat(20_000));
    let large = ezq::Envelope::builder("step", "shop").json(&data).unwrap();
    let large = Outbound::new("steps", large.build().unwrap());
    let batch = [message("steps", 0), large, message("steps", 2)];
    let outcomes = sink.send(&batch).await.unwrap();
    let [
        SendOutcome::Sent,
        SendOutcome::Rejected(error),
        SendOutcome::Sent,
    ] = &*outcomes
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert!(error.to_string().contains("`steps`"), "{error}");
    assert_eq!(ids(&cluster.brokers(), "steps").len(), 2);
}

#[tokio::test]
async fn other_implementations_of_the_protocol_store_the_same() {
    let test = "sending::other_implementations_of_the_protocol_store_the_same";
    for program in [Program::Noida, Program::Tansu] {
        let Some(server) = Server::start(test, program) else {
            return;
        };
        let sink = KafkaSink::connect(&server.url()).await.unwrap();
        let batch: Vec<_> = (0..300)
            .map(|n| message("steps", n).key(format!("key-{}", n % 10)))
            .collect();
        let outcomes = sink.send(&batch).await.unwrap();
        assert!(outcomes.iter().all(is_sent), "{outcomes:?}");

        // Tansu counts batches where it is asked for the end of a partition.
        let records = read_so_many(&server.brokers(), "steps", 300);
        for (key, numbers) in order_of_keys(records) {
            assert_eq!(numbers.len(), 30, "{key}");
            assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        }
        sink.close().await;
    }
}
