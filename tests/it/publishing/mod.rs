//! What goes out, and how exactly it comes in again.

mod bodies;
mod dedupe;
mod due;
mod within;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ezq::codec::WireFormat;
use ezq::event::AttributeValue;
use ezq::prelude::*;
use ezq::publish::Published;
use ezq::sqlx::types::chrono::{DateTime, Utc};
use ezq::{Envelope, ErrorKind, Handler, QueueName, sqlx};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::kit::{Log, Numbered, Work, app, drain, held, numbered, only_dead, queue, soon};

/// An event whose data is whatever JSON it is given.
#[derive(Event, Serialize, Deserialize, Debug, Clone)]
#[event(type = "test.raw")]
struct Raw(Box<RawValue>);

fn raw(json: impl Into<String>) -> Raw {
    Raw(RawValue::from_string(json.into()).unwrap())
}

async fn connect(queue: &QueueName) -> (Ezq, Work) {
    let (handler, work) = Work::quick();
    (app(queue).register(handler).connect().await.unwrap(), work)
}

fn number(published: &Published) -> i64 {
    published.id.as_number().unwrap()
}

#[tokio::test]
async fn publish_all_keeps_order_and_tells_every_id() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let stored = ezq.publish_all(&numbered(1..=500)).await.unwrap();
    let ids: Vec<i64> = stored.iter().map(number).collect();
    assert_eq!(ids.len(), 500);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");

    let rows: Vec<(i64, String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT msg_id, message ->> 'id', message -> 'data' ->> 'n' FROM pgmq.q_{queue}
         ORDER BY vt, msg_id"
    )))
    .fetch_all(ezq.pool())
    .await
    .unwrap();

    let expected: Vec<_> = stored
        .iter()
        .zip(1..)
        .map(|(one, n): (_, i64)| (number(one), one.event_id.clone(), n.to_string()))
        .collect();
    assert_eq!(rows, expected);

    soon(ezq.consumer().concurrency(1).until_idle().run())
        .await
        .unwrap();
    assert_eq!(work.handled.take(), (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn publish_all_fails_where_an_event_is_refused_and_tells_what_was_stored() {
    let queue = queue();
    let ezq = app(&queue).connect().await.unwrap();
    let events = [raw("1"), raw(r#""\u0000""#), raw("2")];
    let failure = ezq.publish_all(&events).await.unwrap_err();
    let failed: Vec<_> = failure
        .failures()
        .map(|(at, why)| (at, why.kind()))
        .collect();
    assert_eq!(failed, [(1, ErrorKind::InvalidEvent)]);
    assert_eq!(failure.stored().count(), 2);

    let stored: BTreeSet<i64> = failure.stored().map(number).collect();
    let text = format!("select msg_id from pgmq.q_{queue}");
    let rows: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(text))
        .fetch_all(ezq.pool())
        .await
        .unwrap();
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), stored);

    // Behind `?`, a retry of the whole is no good advice.
    let error = ezq::Error::from(failure);
    assert_eq!(
        (error.kind(), error.is_transient()),
        (ErrorKind::PartlyPublished, false)
    );
    assert!(
        error
            .to_string()
            .starts_with("1 of 3 events are not published; the one at 1: ")
    );

    let inner = std::error::Error::source(&error).unwrap();
    let inner = inner
        .downcast_ref::<ezq::publish::PublishAllError>()
        .unwrap();
    assert_eq!(inner.stored().count(), 2);

    let failure = ezq.publish_all(&[raw(r#""\u0000""#)]).await.unwrap_err();
    assert_eq!(failure.stored().count(), 0);
    assert_eq!(ezq::Error::from(failure).kind(), ErrorKind::InvalidEvent);
}

#[tokio::test]
async fn one_bad_event_harms_no_other_of_its_batch() {
    let queue = queue();
    let seen = Log::new();
    let log = seen.clone();
    let handler = Handler::on("raw", move |event: Raw| {
        log.push(event.0.get().to_owned());
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let huge = format!("\"{}\"", "x".repeat(1024 * 1024));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));

    let events = [
        "1",
        r#""\u0000""#,
        "2",
        r#""\ud800""#,
        "3",
        &huge,
        "4",
        &deep,
        "5",
        "1e200000",
        "6",
        r#"{"\udc00": 1}"#,
        "7",
    ];

    let events: Vec<Raw> = events.into_iter().map(raw).collect();
    let outcomes = ezq.publish_all(&events).outcomes().await.unwrap();
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(ezq::Error::kind))
        .collect();

    let refused = Some(ErrorKind::InvalidEvent);
    let expected = [
        None,
        refused,
        None,
        refused,
        None,
        Some(ErrorKind::TooLarge),
        None,
        refused,
        None,
        refused,
        None,
        refused,
        None,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(drain(&ezq).await.counts.handled, 7);
    assert_eq!(seen.sorted(), ["1", "2", "3", "4", "5", "6", "7"]);

    for (event, expected) in events
        .iter()
        .zip(expected)
        .filter(|(_, kind)| kind.is_some())
    {
        assert_eq!(
            ezq.publish(event).await.map_err(|e| e.kind()).err(),
            expected,
            "{event:?}"
        );
    }

    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn options_reach_the_envelope_and_the_headers() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("seen", move |_: AnyEvent, context: Context| {
        seen.push(context);
        async {}
    });
    let builder = app(&queue).configure(|config| config.app = "shop".into());
    let ezq = builder.register(handler).connect().await.unwrap();

    let published = ezq
        .publish(&Numbered { n: 1 })
        .subject("order-7")
        .key("customer-1")
        .correlation_id("flow-1")
        .max_attempts(3)
        .header("tenant", "acme")
        .header("weight", 2)
        .await
        .unwrap();

    drain(&ezq).await;
    let context = log.take().remove(0);
    assert_eq!(context.event_id(), published.event_id);
    assert_eq!(context.envelope().source(), "shop");
    assert_eq!(context.envelope().subject(), Some("order-7"));
    assert!(context.envelope().time().unwrap() <= Utc::now());

    let headers = context.headers();
    assert_eq!(headers.text("x-pgmq-group"), Some("customer-1"));
    assert_eq!(headers.text("correlation-id"), Some("flow-1"));
    assert_eq!(headers.number("ezq-max-attempts"), Some(3));
    assert_eq!(headers.text("tenant"), Some("acme"));
    assert_eq!(headers.number("weight"), Some(2));

    let error = ezq
        .publish(&Numbered { n: 1 })
        .header("ezq-h:x", 1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReservedHeader);

    let error = ezq
        .publish(&Numbered { n: 1 })
        .subject("")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);

    let error = ezq
        .publish(&Numbered { n: 1 })
        .source("my shop")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);

    ezq.publish(&Numbered { n: 1 })
        .source("/sensors/7")
        .await
        .unwrap();
    ezq.publish(&Numbered { n: 2 }).await.unwrap();
    drain(&ezq).await;

    let mut sources: Vec<String> = log
        .take()
        .iter()
        .map(|context| context.envelope().source().to_owned())
        .collect();
    sources.sort();
    assert_eq!(sources, ["/sensors/7", "shop"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn an_events_own_key_is_its_ordering_key() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.keyed", key = customer)]
    struct Keyed {
        customer: i64,
    }

    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let event = Keyed { customer: 5 };
    ezq.publish(&event).await.unwrap();
    ezq.publish(&event).key("other").await.unwrap();

    let keys: Vec<Option<String>> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT headers ->> 'x-pgmq-group' FROM pgmq.q_{queue} ORDER BY msg_id"
    )))
    .fetch_all(ezq.pool())
    .await
    .unwrap();
    assert_eq!(keys, [Some("5".to_owned()), Some("other".to_owned())]);
}

#[tokio::test]
async fn an_event_known_only_at_run_time_keeps_all_its_attributes() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("seen", move |event: AnyEvent| {
        seen.push(event.envelope().clone());
        async {}
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let time = DateTime::parse_from_rfc3339("2001-02-03T04:05:06.789+01:00").unwrap();

    let envelope = Envelope::builder("com.example.made", "/made/here")
        .id("my-id")
        .time(time)
        .subject("it")
        .datacontenttype("application/json")
        .dataschema("https://example.com/schema")
        .extension("flag", AttributeValue::Boolean(true))
        .extension("count", AttributeValue::Integer(-7))
        .extension("text", AttributeValue::Text("7".into()))
        .json(r#"{"z": 1, "price": 19.90}"#)
        .unwrap()
        .build()
        .unwrap();

    let published = ezq.publish_envelope(envelope).await.unwrap();
    assert_eq!(published.event_id, "my-id");

    let binary = Envelope::builder("com.example.binary", "/made/here").data_base64("AAEC");
    ezq.publish_envelope(binary.build().unwrap()).await.unwrap();
    drain(&ezq).await;

    let seen = log.take();
    let envelope = seen
        .iter()
        .find(|envelope| envelope.id() == "my-id")
        .unwrap();
    assert_eq!(envelope.event_type(), "com.example.made");
    assert_eq!(envelope.source(), "/made/here");
    assert_eq!(envelope.time(), Some(time));
    assert_eq!(envelope.subject(), Some("it"));
    assert_eq!(envelope.datacontenttype(), Some("application/json"));
    assert_eq!(envelope.dataschema(), Some("https://example.com/schema"));

    let extensions: BTreeMap<_, _> = envelope.extensions().clone();
    let expected = [
        ("flag".to_owned(), AttributeValue::Boolean(true)),
        ("count".to_owned(), AttributeValue::Integer(-7)),
        ("text".to_owned(), AttributeValue::Text("7".into())),
    ];
    assert_eq!(extensions, BTreeMap::from(expected));
    assert!(
        envelope.data().unwrap().contains("19.90"),
        "{:?}",
        envelope.data()
    );
    assert_eq!(seen.iter().find_map(Envelope::data_base64), Some("AAEC"));
}

#[tokio::test]
async fn an_event_goes_to_its_own_queue_unless_told_otherwise() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.mail", queue = "it_publishing_own_queue")]
    struct Mail {}

    let other = queue();
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let own = ezq.publish(&Mail {}).await.unwrap();
    assert_eq!(own.queue.as_str(), "it_publishing_own_queue");
    assert!(ezq.cancel(&own).await.unwrap(), "it is there");

    let told = ezq.publish(&Mail {}).queue(&other).await.unwrap();
    assert_eq!(told.queue, other);
    assert_eq!(held(&ezq, &other).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn the_flat_form_is_written_where_it_is_chosen_and_read_everywhere() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let builder = app(&queue).configure(|config| config.wire = WireFormat::Flat);
    let ezq = builder.register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&End::within(Duration::from_millis(1500)))
        .await
        .unwrap();

    let builder = app(&queue).configure(|config| config.wire = WireFormat::Ezvent);
    let later = builder.connect().await.unwrap();
    later.publish(&Interrupt::default()).await.unwrap();

    let bodies: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT message::text FROM pgmq.q_{queue} ORDER BY msg_id"
    )))
    .fetch_all(ezq.pool())
    .await
    .unwrap();
    assert_eq!(bodies[2], r#"{"_type": "EZInterruptEvent"}"#);
    assert_eq!(bodies[0], r#"{"n": 1, "_type": "test.numbered"}"#);
    assert_eq!(bodies[1], r#"{"_type": "EZQEndEvent", "timeout": 1.5}"#);

    soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn a_message_id_beyond_31_bits_is_like_any_other() {
    let queue = queue();

    let (handler, log) = {
        let log = Log::new();
        let seen = log.clone();
        let handler = Handler::on("ids", move |event: Numbered, context: Context| {
            seen.push((context.message_id().as_number(), context.attempt()));
            async move {
                match (event.n, context.attempt()) {
                    (2, 1) => Err(HandlerError::retry("once")),
                    (3, _) => Err(HandlerError::fatal("never")),
                    _ => Ok(()),
                }
            }
        });
        (handler, log)
    };

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();

    let first: i64 = 5_000_000_000;
    sqlx::query("SELECT setval(pg_get_serial_sequence('pgmq.q_' || $1, 'msg_id'), $2)")
        .bind(queue.as_str())
        .bind(first)
        .execute(ezq.pool())
        .await
        .unwrap();

    let stored = ezq.publish_all(&numbered(1..=3)).await.unwrap();
    let ids: Vec<i64> = stored.iter().map(number).collect();
    assert_eq!(ids, [first + 1, first + 2, first + 3]);

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (2, 1, 1)
    );

    let mut expected =
        [(1, 1), (2, 1), (2, 2), (3, 1)].map(|(n, attempt)| (Some(first + n), attempt));
    expected.sort();
    assert_eq!(log.sorted(), expected);
    let died = only_dead(&ezq, &queue).await.original_id.unwrap();
    assert_eq!(died.as_number(), Some(first + 3));
}

#[tokio::test]
async fn a_queue_name_that_sql_would_misread_is_refused_everywhere() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let long = "a".repeat(48);
    let names = [
        "a;b", "a\"b", "a'b", "a b", "a*/b", &long, "", "a--b", "ä", "a\0b", "a\\b",
    ];

    for name in names {
        let event = Numbered { n: 1 };
        let error = ezq.publish(&event).queue(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidQueueName, "{name:?}");
        let error = ezq.publish_all([&event]).queue(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidQueueName, "{name:?}");
        let error = soon(ezq.consumer().queue(name).run()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidQueueName, "{name:?}");
    }

    let longest = format!("{}_{}", queue, "x".repeat(47))[..47].to_owned();
    let (ezq, work) = connect(&QueueName::new(&longest).unwrap()).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(work.handled.take(), [1]);
}
