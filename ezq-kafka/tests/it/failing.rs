//! Clusters that refuse, that answer late, and that lack a topic.

use std::time::Duration;

use ezq::ErrorKind;
use ezq::broker::{Outbound, SendOutcome, Sink};
use ezq_kafka::KafkaSink;
use rdkafka::types::RDKafkaRespErr as Fault;

use crate::records::{ids, message, outcomes};
use crate::server::Cluster;

#[tokio::test]
async fn faults_that_pass_are_ridden_out_without_duplicates() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    cluster.fail_produces(&[
        Fault::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Fault::RD_KAFKA_RESP_ERR__TRANSPORT,
        Fault::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ]);
    let batch: Vec<_> = (0..50).map(|n| message("steps", n).key("ada")).collect();
    let all = outcomes(&sink, &batch).await;
    assert!(all.iter().all(|one| *one == "sent"), "{all:?}");
    let expected: Vec<_> = (0..50).map(|n| format!("event-{n}")).collect();
    assert_eq!(ids(&cluster.brokers(), "steps"), expected);
}

#[tokio::test]
async fn a_set_that_the_broker_refuses_rejects_only_the_culprit() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    let too_large = Fault::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    let batch: Vec<_> = (0..5).map(|n| message("steps", n).key("ada")).collect();

    // The set was too large, none of its messages is.
    cluster.fail_produces(&[too_large]);
    let all = outcomes(&sink, &batch).await;
    assert_eq!(all, ["sent"; 5]);
    let expected: Vec<_> = (0..5).map(|n| format!("event-{n}")).collect();
    assert_eq!(ids(&cluster.brokers(), "steps"), expected);

    // The first one is too large by itself.
    cluster.fail_produces(&[too_large, too_large]);
    let all = outcomes(&sink, &batch).await;
    assert_eq!(all, ["rejected", "sent", "sent", "sent", "sent"]);
}

#[tokio::test]
async fn an_event_that_fails_takes_those_of_its_key_along() {
    let cluster = Cluster::start();
    cluster.create_topic("steps", 1);
    // A set for each message. A broker refuses sets that were on their way behind one that failed, by their
    // sequence numbers; this cluster does not look at these.
    let one_by_one = "batch.num.messages=1&max.in.flight=1";
    let url = format!("{}?{one_by_one}", cluster.url());
    let sink = KafkaSink::connect(&url).await.unwrap();
    cluster.fail_produces(&[Fault::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let batch: Vec<_> = (0..5).map(|n| message("steps", n).key("ada")).collect();

    let error = sink.send(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(error.to_string().contains("`steps`"), "{error}");
    assert_eq!(ids(&cluster.brokers(), "steps"), Vec::<String>::new());
    assert_eq!(outcomes(&sink, &batch).await, ["sent"; 5]);
}

#[tokio::test]
async fn a_topic_that_is_missing_fails_its_events_and_those_behind() {
    let cluster = Cluster::start();
    let missing = Fault::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    cluster.create_topic("good", 1);
    cluster.fail_topic("absent", missing);
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    let batch = [
        message("good", 0).key("ada"),
        message("absent", 1).key("ada"),
        message("good", 2).key("ada"),
        message("good", 3).key("bob"),
    ];
    let outcomes = sink.send(&batch).await.unwrap();
    let [
        SendOutcome::Sent,
        SendOutcome::Failed(error),
        SendOutcome::Failed(_),
        SendOutcome::Sent,
    ] = &*outcomes
    else {
        panic!("{outcomes:?}");
    };
    assert!(error.to_string().contains("no topic `absent`"), "{error}");

    let alone = sink.send(&batch[1..2]).await.unwrap_err();
    assert!(alone.is_transient(), "{alone:?}");
    // Somebody creates it.
    cluster.fail_topic("absent", Fault::RD_KAFKA_RESP_ERR_NO_ERROR);
    let sent = crate::records::outcomes(&sink, &batch[1..3]).await;
    assert_eq!(sent, ["sent", "sent"]);
    assert_eq!(
        ids(&cluster.brokers(), "good"),
        ["event-0", "event-3", "event-2"]
    );
}

#[tokio::test]
async fn a_name_that_no_topic_can_have_rejects_its_events_alone() {
    let cluster = Cluster::start();
    cluster.fail_topic("a topic", Fault::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION);
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    let batch = [
        message("a topic", 0),
        message("steps", 1),
        message("a\0topic", 2),
        message("", 3),
    ];
    let all = outcomes(&sink, &batch).await;
    assert_eq!(all, ["rejected", "sent", "rejected", "rejected"]);
}

#[tokio::test]
async fn a_cluster_that_answers_late_is_waited_for() {
    let cluster = Cluster::start();
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    cluster.answer_after(Duration::from_secs(1));
    let batch = [message("steps", 0), message("steps", 1)];
    assert_eq!(outcomes(&sink, &batch).await, ["sent", "sent"]);
}

#[tokio::test]
async fn what_is_not_stored_in_time_is_taken_back_in_its_order() {
    let cluster = Cluster::start();
    cluster.create_topic("steps", 1);
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    outcomes(&sink, &[message("steps", 100).key("ada")]).await;

    let hasty = sink.clone().answer_limit(Duration::from_millis(300));
    cluster.answer_after(Duration::from_secs(2));
    let batch: Vec<Outbound> = (0..20).map(|n| message("steps", n).key("ada")).collect();
    let error = hasty.send(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");

    cluster.answer_after(Duration::ZERO);
    assert_eq!(outcomes(&sink, &batch).await, ["sent"; 20]);
    let mut stored = ids(&cluster.brokers(), "steps");
    // What was on its way may be there twice, each time in its order.
    let last = stored.split_off(stored.len() - 20);
    let expected: Vec<_> = (0..20).map(|n| format!("event-{n}")).collect();
    assert_eq!(last, expected);
    assert!(expected.starts_with(&stored[1..]), "{stored:?}");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_to_be_sent() {
    let cluster = Cluster::start();
    cluster.create_topic("steps", 1);
    let sink = KafkaSink::connect(&cluster.url()).await.unwrap();
    outcomes(&sink, &[message("steps", 100)]).await;

    cluster.go_down();
    let batch: Vec<Outbound> = (0..20).map(|n| message("steps", n)).collect();
    let limit = Duration::from_millis(500);
    let cut = tokio::time::timeout(limit, sink.send(&batch)).await;
    assert!(cut.is_err());
    cluster.come_up();
    let after = [message("steps", 101)];
    // The client connects again by itself, which may take two attempts.
    while sink.send(&after).await.is_err() {}
    assert_eq!(ids(&cluster.brokers(), "steps"), ["event-100", "event-101"]);
}
