//! What the sink writes, and what it answers.

use std::time::{Duration, Instant};

use ezq::Envelope;
use ezq::ErrorKind;
use ezq::broker::{Outbound, SendOutcome, Sink};
use ezq_redis::RedisSink;
use redis::Connection;
use serde_json::Value;

use crate::server::{Server, free_port};

/// The entries of a stream, each as its fields.
pub(crate) fn entries(connection: &mut Connection, stream: &str) -> Vec<Vec<String>> {
    let found: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(&[stream, "-", "+"])
        .query(connection)
        .unwrap();
    found.into_iter().map(|(_, fields)| fields).collect()
}

pub(crate) fn message(topic: &str, n: u32) -> Outbound {
    let data = format!(r#"{{"n":{n},"big":123456789012345678901234567890}}"#);
    let envelope = Envelope::builder("step", "shop").id(format!("event-{n}"));
    Outbound::new(topic, envelope.json(&data).unwrap().build().unwrap())
}

fn is_sent(outcome: &SendOutcome) -> bool {
    matches!(outcome, SendOutcome::Sent)
}

/// Which messages of a batch are stored.
async fn sent(sink: &RedisSink, batch: &[Outbound]) -> Vec<bool> {
    let outcomes = sink.send(batch).await.unwrap();
    outcomes.iter().map(is_sent).collect()
}

/// Gives a name to a text, so that no stream can have it.
fn occupy(connection: &mut Connection, name: &str) {
    let set = redis::cmd("SET")
        .arg(&[name, "text"])
        .query::<()>(connection);
    set.unwrap();
}

#[tokio::test]
async fn an_entry_holds_the_event_as_cloudevents_json() {
    let test = "sending::an_entry_holds_the_event_as_cloudevents_json";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let sink = RedisSink::connect(&server.url()).await.unwrap();
    let batch: Vec<Outbound> = (0..3).map(|n| message("steps", n)).collect();
    let outcomes = sink.send(&batch).await.unwrap();
    assert!(outcomes.iter().all(is_sent), "{outcomes:?}");

    let stored = entries(&mut server.connection(), "steps");
    let ids = stored.iter().map(|fields| {
        assert_eq!(fields[0], "cloud_event");
        assert!(fields[1].contains("123456789012345678901234567890"));
        let event: Value = serde_json::from_str(&fields[1]).unwrap();
        event["id"].as_str().unwrap().to_owned()
    });
    assert_eq!(ids.collect::<Vec<_>>(), ["event-0", "event-1", "event-2"]);
}

#[tokio::test]
async fn a_stream_is_trimmed_only_where_that_is_asked_for() {
    let test = "sending::a_stream_is_trimmed_only_where_that_is_asked_for";
    let Some(server) = Server::start(test, &["--stream-node-max-entries", "10"]) else {
        return;
    };
    let sink = RedisSink::connect(&server.url()).await.unwrap();
    let all: Vec<Outbound> = (0..500).map(|n| message("all", n)).collect();
    sink.send(&all).await.unwrap();
    let some: Vec<Outbound> = (0..500).map(|n| message("some", n)).collect();
    sink.clone().max_len(100).send(&some).await.unwrap();

    let mut connection = server.connection();
    assert_eq!(entries(&mut connection, "all").len(), 500);
    let kept = entries(&mut connection, "some").len();
    assert!((100..=120).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_stream_that_cannot_take_events_harms_no_other() {
    let test = "sending::a_stream_that_cannot_take_events_harms_no_other";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let mut connection = server.connection();
    occupy(&mut connection, "taken");

    let sink = RedisSink::connect(&server.url()).await.unwrap();
    let batch = [message("good", 0), message("taken", 1), message("good", 2)];
    let outcomes = sink.send(&batch).await.unwrap();
    assert!(
        is_sent(&outcomes[0]) && is_sent(&outcomes[2]),
        "{outcomes:?}"
    );
    // It would be sent again for ever: somebody has to free the name.
    let SendOutcome::Rejected(error) = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert!(error.to_string().contains("`taken`"), "{error}");
    assert_eq!(entries(&mut connection, "good").len(), 2);
}

#[tokio::test]
async fn an_event_that_fails_takes_those_of_its_key_along() {
    let test = "sending::an_event_that_fails_takes_those_of_its_key_along";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let mut connection = server.connection();
    // A stream without ids left takes nothing, whatever comes.
    let last = format!("{}-{}", u64::MAX, u64::MAX);
    redis::cmd("XADD")
        .arg(&["full", &last, "n", "1"])
        .query::<()>(&mut connection)
        .unwrap();

    let sink = RedisSink::connect(&server.url()).await.unwrap();
    let batch = [
        message("good", 0).key("ada"),
        message("full", 1).key("ada"),
        message("good", 2).key("ada"),
    ];
    assert_eq!(sent(&sink, &batch).await, [true, false, false]);
    assert_eq!(entries(&mut connection, "good").len(), 1);
}

#[tokio::test]
async fn replicas_that_are_missing_are_a_failure() {
    let test = "sending::replicas_that_are_missing_are_a_failure";
    let Some(server) = Server::start(test, &[]) else {
        return;
    };
    let sink = RedisSink::connect(&server.url()).await.unwrap().replicas(1);
    let error = sink.send(&[message("steps", 0)]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_absent_is_an_error_that_says_what_to_do() {
    let port = free_port();
    let began = Instant::now();
    let url = format!("redis://ada:secret-word@127.0.0.1:{port}");
    let error = RedisSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(began.elapsed() < Duration::from_secs(12));

    let text = ezq::error::error_chain(&error).to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(!text.contains("secret-word"), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_told() {
    let test = "sending::a_wrong_password_is_refused_and_not_told";
    let Some(server) = Server::start(test, &["--requirepass", "right-word"]) else {
        return;
    };
    let url = |word| {
        server
            .url()
            .replace("redis://", &format!("redis://:{word}@"))
    };
    let error = RedisSink::connect(&url("secret-word")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    let sink = RedisSink::connect(&url("right-word")).await.unwrap();
    assert_eq!(sent(&sink, &[message("steps", 0)]).await, [true]);

    let text = format!("{error:?} {sink:?}");
    assert!(!text.contains("secret-word"), "{text}");
    assert!(!text.contains("right-word"), "{text}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_its_password() {
    for url in [
        "",
        "postgres://ada:secret-word@localhost",
        "redis://:secret-word@host:port",
    ] {
        let error = RedisSink::connect_lazily(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }
}
