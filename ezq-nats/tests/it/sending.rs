//! What the sink stores, and what it answers.

use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{self, Context, message::StreamMessage};
use ezq::Envelope;
use ezq::ErrorKind;
use ezq::broker::{Outbound, SendOutcome, Sink, Source};
use ezq::error::error_chain;
use ezq_conformance::matrix::{check_column, sink_column, source_column};
use ezq_nats::{ContentMode, NatsSink, NatsSource};

use crate::server::{BOTH, Server, Version};

/// The messages of a stream, in their order.
pub(crate) async fn messages(context: &Context, stream: &str) -> Vec<StreamMessage> {
    let mut stream = context.get_stream(stream).await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut found = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        // A message may have been removed in between.
        found.extend(stream.get_raw_message(sequence).await);
    }
    found
}

fn header<'m>(message: &'m StreamMessage, name: &str) -> Option<&'m str> {
    message.headers.get(name).map(|value| value.as_str())
}

fn ids(messages: &[StreamMessage]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| header(message, "Nats-Msg-Id").unwrap())
        // Subject, source and id.
        .map(|identity| identity.rsplit(' ').next().unwrap())
        .collect()
}

pub(crate) fn message(topic: &str, n: u32) -> Outbound {
    of_size(topic, n, 0)
}

/// An event whose data has at least so many bytes.
fn of_size(topic: &str, n: u32, bytes: usize) -> Outbound {
    let filler = "x".repeat(bytes);
    let data = format!(r#"{{"n":{n},"big":123456789012345678901234567890,"filler":"{filler}"}}"#);
    let envelope = Envelope::builder("step", "shop").id(format!("event-{n}"));
    let envelope = envelope.subject("Grüße 100%").json(&data).unwrap();
    Outbound::new(topic, envelope.build().unwrap())
}

/// Which messages of a batch are stored.
async fn sent(sink: &NatsSink, batch: &[Outbound]) -> Vec<bool> {
    let outcomes = sink.send(batch).await.unwrap();
    let sent = outcomes.iter().map(|one| matches!(one, SendOutcome::Sent));
    sent.collect()
}

/// The error with which a message was refused for good.
fn rejection(outcome: &SendOutcome) -> &ezq::Error {
    match outcome {
        SendOutcome::Rejected(error) => error,
        other => panic!("not rejected: {other:?}"),
    }
}

/// The error with which a message was not stored this time.
fn failure(outcome: &SendOutcome) -> &ezq::Error {
    match outcome {
        SendOutcome::Failed(error) => error,
        other => panic!("not failed: {other:?}"),
    }
}

async fn with_stream(server: &Server) -> NatsSink {
    let sink = NatsSink::connect(&server.url()).await.unwrap();
    sink.stream("STEPS", &["steps.>"]).await.unwrap()
}

#[tokio::test]
async fn a_message_holds_the_event_in_both_modes_of_cloudevents() {
    let test = "sending::a_message_holds_the_event_in_both_modes_of_cloudevents";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        let sink = with_stream(&server).await;
        let batch: Vec<Outbound> = (0..3).map(|n| message("steps.binary", n)).collect();
        assert_eq!(sent(&sink, &batch).await, [true; 3]);
        let structured = sink.content_mode(ContentMode::Structured);
        assert_eq!(
            sent(&structured, &[message("steps.whole", 3)]).await,
            [true]
        );

        let stored = messages(&server.jetstream().await, "STEPS").await;
        assert_eq!(ids(&stored), ["event-0", "event-1", "event-2", "event-3"]);
        let binary = &stored[1];
        assert_eq!(binary.subject.as_str(), "steps.binary");
        assert_eq!(header(binary, "ce-id"), Some("event-1"));
        assert_eq!(header(binary, "ce-type"), Some("step"));
        assert_eq!(header(binary, "ce-specversion"), Some("1.0"));
        assert_eq!(
            header(binary, "ce-datacontenttype"),
            Some("application/json")
        );
        assert_eq!(
            header(binary, "ce-subject"),
            Some("Gr%C3%BC%C3%9Fe%20100%25")
        );
        assert!(
            binary
                .payload
                .starts_with(b"{\"n\":1,\"big\":123456789012345678901234567890")
        );

        let whole = &stored[3];
        let mode = "application/cloudevents+json";
        assert_eq!(header(whole, "Content-Type"), Some(mode));
        let event: serde_json::Value = serde_json::from_slice(&whole.payload).unwrap();
        assert_eq!(
            (&event["id"], &event["data"]["n"]),
            (&"event-3".into(), &3.into())
        );
    }
}

#[tokio::test]
async fn the_page_says_what_the_sink_and_the_source_can_do() {
    let test = "sending::the_page_says_what_the_sink_and_the_source_can_do";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let mut column = sink_column(with_stream(&server).await.capabilities());
    let source = NatsSource::new(&server.url(), "STEPS").unwrap();
    column.extend(source_column(source.capabilities()));
    let document = include_str!("../../../docs/brokers.md");
    assert_eq!(check_column(document, "`ezq-nats`", &column), Ok(()));
}

#[tokio::test]
async fn an_event_that_is_sent_again_is_stored_once() {
    let test = "sending::an_event_that_is_sent_again_is_stored_once";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        let sink = with_stream(&server).await;
        let window = sink.capabilities().dedupe;
        assert_eq!(
            window,
            Some(Duration::from_secs(120)),
            "the server's default"
        );

        let batch: Vec<Outbound> = (0..20).map(|n| message("steps.a", n)).collect();
        assert_eq!(sent(&sink, &batch).await, [true; 20]);
        assert_eq!(sent(&sink, &batch).await, [true; 20]);
        assert_eq!(messages(&server.jetstream().await, "STEPS").await.len(), 20);
    }
}

#[tokio::test]
async fn a_subject_that_no_stream_takes_is_named_and_harms_no_other() {
    let test = "sending::a_subject_that_no_stream_takes_is_named_and_harms_no_other";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        let sink = with_stream(&server).await;
        let batch = [
            message("steps.a", 0),
            message("nobody.takes", 1),
            message("steps.a", 2),
        ];
        let outcomes = sink.send(&batch).await.unwrap();
        let error = failure(&outcomes[1]);
        assert_eq!(error.kind(), ErrorKind::QueueMissing);
        assert!(error.to_string().contains("`nobody.takes`"), "{error}");
        assert_eq!(sent(&sink, &batch).await, [true, false, true]);
    }
}

#[tokio::test]
async fn a_subject_that_is_forbidden_or_none_is_rejected_with_a_reason() {
    let test = "sending::a_subject_that_is_forbidden_or_none_is_rejected_with_a_reason";
    let config = r#"
        accounts { A { jetstream: enabled, users: [{
            user: ada, password: "right-word", permissions: { publish: { deny: ["steps.secret"] } }
        }] } }
    "#;
    for version in BOTH {
        let Some(server) = Server::start(test, version, config) else {
            return;
        };
        let url = server.url().replace("nats://", "nats://ada:right-word@");
        let sink = NatsSink::connect(&url).await.unwrap();
        let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
        let batch = [
            message("steps.a", 0),
            message("steps.secret", 1),
            message("steps.a", 2),
        ];
        // More than once: what is known of a subject does not replace the server's word.
        for _ in 0..2 {
            let outcomes = sink.send(&batch).await.unwrap();
            let error = rejection(&outcomes[1]);
            assert_eq!(error.kind(), ErrorKind::Permission);
            assert!(error.to_string().contains("`steps.secret`"), "{error}");
            assert!(matches!(outcomes[0], SendOutcome::Sent), "{outcomes:?}");
            assert!(matches!(outcomes[2], SendOutcome::Sent), "{outcomes:?}");
        }

        for subject in [
            "",
            "steps.*",
            "steps.>",
            "steps..a",
            ".steps",
            "steps a",
            "steps\r\na",
        ] {
            let outcomes = sink.send(&[message(subject, 3)]).await.unwrap();
            let error = rejection(&outcomes[0]);
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{subject:?}");
        }
        let user = ConnectOptions::with_user_and_password("ada".into(), "right-word".into());
        let context = jetstream::new(user.connect(server.url()).await.unwrap());
        assert_eq!(
            ids(&messages(&context, "STEPS").await),
            ["event-0", "event-2"]
        );
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_is_rejected_and_harms_no_other() {
    let test = "sending::an_event_that_is_too_large_is_rejected_and_harms_no_other";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "max_payload: 20000") else {
            return;
        };
        let sink = NatsSink::connect(&server.url()).await.unwrap();
        assert_eq!(sink.capabilities().max_message, Some(20_000));
        let small = Config {
            name: "STEPS".into(),
            subjects: vec!["steps.>".into()],
            max_message_size: 10_000,
            ..Config::default()
        };
        server.jetstream().await.create_stream(small).await.unwrap();

        // The first is refused by the client, the second by the stream.
        for bytes in [20_000, 10_000] {
            let batch = [
                message("steps.a", 0),
                of_size("steps.a", 1, bytes),
                message("steps.a", 2),
            ];
            let outcomes = sink.send(&batch).await.unwrap();
            let error = rejection(&outcomes[1]);
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
            assert!(error.to_string().contains("max_payload"), "{error}");
            assert!(matches!(outcomes[2], SendOutcome::Sent), "{outcomes:?}");
        }
    }
}

#[tokio::test]
async fn a_full_stream_is_a_failure_that_passes() {
    let test = "sending::a_full_stream_is_a_failure_that_passes";
    for version in BOTH {
        let Some(server) = Server::start(test, version, "") else {
            return;
        };
        let full = |bytes| Config {
            name: "STEPS".into(),
            subjects: vec!["steps.>".into()],
            max_bytes: bytes,
            discard: DiscardPolicy::New,
            ..Config::default()
        };
        let context = server.jetstream().await;
        context.create_stream(full(3_000)).await.unwrap();

        let sink = NatsSink::connect(&server.url()).await.unwrap();
        let batch: Vec<_> = (0..5).map(|n| of_size("steps.a", n, 800)).collect();
        let outcomes = sink.send(&batch).await.unwrap();
        let error = failure(&outcomes[4]);
        assert!(error.is_transient(), "{error:?}");
        assert!(
            error_chain(error).contains("maximum bytes exceeded"),
            "{error:?}"
        );

        context.update_stream(full(300_000)).await.unwrap();
        assert_eq!(sent(&sink, &batch).await, [true; 5]);
        assert_eq!(messages(&context, "STEPS").await.len(), 5);
    }
}

#[tokio::test]
async fn an_event_that_fails_takes_those_of_its_key_along() {
    let test = "sending::an_event_that_fails_takes_those_of_its_key_along";
    let Some(server) = Server::start(test, Version::V2_15, "") else {
        return;
    };
    let sink = with_stream(&server).await;
    let batch = [
        message("steps.a", 0).key("ada"),
        message("nobody.takes", 1).key("ada"),
        message("steps.a", 2).key("ada"),
    ];
    assert_eq!(sent(&sink, &batch).await, [true, false, false]);
    let context = server.jetstream().await;
    assert_eq!(ids(&messages(&context, "STEPS").await), ["event-0"]);
}
