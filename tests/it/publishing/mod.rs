//! What goes out, and how exactly it comes in again.

mod bodies;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ezq::codec::WireFormat;
use ezq::engine::Due;
use ezq::event::AttributeValue;
use ezq::prelude::*;
use ezq::publish::Published;
use ezq::sqlx::types::chrono::{DateTime, Utc};
use ezq::{Envelope, ErrorKind, Handler, QueueName, sqlx};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::kit::{Log, Numbered, Work, app, drain, held, numbered, only_dead, queue, soon, until};

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

/// In microseconds; an idle consumer that only polled would be a second late.
const PROMPT: i64 = 500_000;

/// Handles one event that is due later; how many microseconds late, by the database's clock.
async fn lateness(publish: impl AsyncFn(&Ezq) -> Published) -> i64 {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();

    let handler = Handler::on(
        "clock",
        move |_: Numbered, State(pool): State<sqlx::PgPool>| {
            let seen = seen.clone();
            async move {
                let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
                    .fetch_one(&pool)
                    .await?;
                seen.push(now);
                Ok::<(), HandlerError>(())
            }
        },
    );

    let pool = app(&queue).connect().await.unwrap().pool().clone();
    let ezq = app(&queue)
        .state(pool)
        .register(handler)
        .connect()
        .await
        .unwrap();

    let consumer = ezq.consumer().spawn();
    let published = publish(&ezq).await;
    let due: DateTime<Utc> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT vt FROM pgmq.q_{queue} WHERE msg_id = {}",
        number(&published)
    )))
    .fetch_one(ezq.pool())
    .await
    .unwrap();

    until(async || consumer.counts().handled == 1).await;
    consumer.stop();
    soon(consumer.wait()).await.unwrap();
    (log.take()[0] - due).num_microseconds().unwrap()
}

#[tokio::test]
async fn a_delay_is_kept_to_the_millisecond() {
    let late = lateness(async |ezq| {
        let event = Numbered { n: 1 };
        ezq.publish(&event)
            .after(Duration::from_millis(700))
            .await
            .unwrap()
    })
    .await;
    assert!((0..PROMPT).contains(&late), "{late} us late");
}

#[tokio::test]
async fn a_time_is_kept_to_the_millisecond() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let at = DateTime::from_timestamp_millis(4_102_444_800_123).unwrap();
    let published = ezq.publish(&Numbered { n: 1 }).at(at).await.unwrap();
    let due: DateTime<Utc> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT vt FROM pgmq.q_{queue} WHERE msg_id = {}",
        number(&published)
    )))
    .fetch_one(ezq.pool())
    .await
    .unwrap();
    assert_eq!(due, at);

    let late = lateness(async |ezq| {
        let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(ezq.pool())
            .await
            .unwrap();
        let at = now + Duration::from_millis(700);
        ezq.publish(&Numbered { n: 1 }).at(at).await.unwrap()
    })
    .await;
    assert!((0..PROMPT).contains(&late), "{late} us late");
}

#[tokio::test]
async fn a_time_in_the_past_means_at_once_and_not_before_others() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&Numbered { n: 2 })
        .at(DateTime::UNIX_EPOCH)
        .await
        .unwrap();

    let report = soon(ezq.consumer().concurrency(1).until_idle().run())
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 2);
    assert_eq!(work.handled.take(), [1, 2]);
}

#[tokio::test]
async fn times_and_delays_beyond_every_calendar_are_kept_as_far_as_it_goes() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let event = |n| Numbered { n };
    ezq.publish(&event(1))
        .at(DateTime::<Utc>::MIN_UTC)
        .await
        .unwrap();
    ezq.publish(&event(2))
        .at(DateTime::<Utc>::MAX_UTC)
        .await
        .unwrap();
    ezq.publish(&event(3)).after(Duration::MAX).await.unwrap();

    let moved = ezq.publish(&event(4)).await.unwrap();
    assert!(
        ezq.reschedule(&moved, Due::After(Duration::MAX))
            .await
            .unwrap()
    );
    assert!(
        ezq.reschedule(&moved, Due::At(DateTime::<Utc>::MAX_UTC))
            .await
            .unwrap()
    );
    assert_eq!(held(&ezq, &queue).await, [1, 0, 3, 0]);
    assert!(
        ezq.reschedule(&moved, Due::At(DateTime::<Utc>::MIN_UTC))
            .await
            .unwrap()
    );
    assert_eq!(drain(&ezq).await.counts.handled, 2);
    assert_eq!(work.handled.sorted(), [1, 4]);
    assert_eq!(held(&ezq, &queue).await, [0, 0, 2, 0]);
}

#[tokio::test]
async fn what_is_due_later_is_not_handled_before() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let hour = Duration::from_secs(3600);
    ezq.publish(&Numbered { n: 1 }).after(hour).await.unwrap();
    ezq.publish(&Numbered { n: 2 })
        .at(Utc::now() + hour)
        .await
        .unwrap();
    ezq.publish_all(&numbered(3..=4)).after(hour).await.unwrap();
    ezq.publish(&Numbered { n: 5 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(work.handled.take(), [5]);
    assert_eq!(held(&ezq, &queue).await, [0, 0, 4, 0]);
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
async fn a_scheduled_event_is_cancelled_or_moved_by_what_publish_returned() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let hour = Duration::from_secs(3600);
    let cancelled = ezq.publish(&Numbered { n: 1 }).after(hour).await.unwrap();
    let moved = ezq.publish(&Numbered { n: 2 }).after(hour).await.unwrap();
    let put_off = ezq.publish(&Numbered { n: 3 }).await.unwrap();

    assert!(ezq.cancel(&cancelled).await.unwrap());
    assert!(!ezq.cancel(&cancelled).await.unwrap(), "it is gone");
    assert!(ezq.reschedule(&moved, Due::Now).await.unwrap());
    assert!(ezq.reschedule(&put_off, Due::After(hour)).await.unwrap());
    assert!(!ezq.reschedule(&cancelled, Due::Now).await.unwrap());
    assert_eq!(held(&ezq, &queue).await, [1, 0, 1, 0]);
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(work.handled.take(), [2]);
    assert!(!ezq.cancel(&moved).await.unwrap(), "it is handled");
}

#[tokio::test]
async fn an_event_that_is_moved_nearer_is_handled_then() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let hour = Duration::from_secs(3600);
    let published = ezq.publish(&Numbered { n: 1 }).after(hour).await.unwrap();

    let consumer = ezq.consumer().spawn();
    ezq.publish(&Numbered { n: 2 }).await.unwrap();
    until(async || consumer.counts().handled == 1).await;
    assert!(
        ezq.reschedule(&published, Due::After(Duration::from_millis(50)))
            .await
            .unwrap()
    );

    let moved = Instant::now();
    until(async || consumer.counts().handled == 2).await;
    assert!(
        moved.elapsed() < Duration::from_secs(4),
        "{:?}",
        moved.elapsed()
    );
    assert_eq!(work.handled.take(), [2, 1]);
}

#[tokio::test]
async fn an_event_in_a_transaction_is_seen_when_that_commits() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    let published = ezq
        .publish(&Numbered { n: 1 })
        .within(&mut tx)
        .await
        .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 0);

    tx.commit().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
    assert_eq!(published.queue, queue);
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn an_event_in_a_transaction_that_rolls_back_never_was() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    let event = Numbered { n: 1 };
    ezq.publish(&event).within(&mut tx).await.unwrap();

    ezq.publish(&event)
        .after(PAUSE)
        .within(&mut tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn several_events_in_a_transaction_are_seen_in_their_order_when_that_commits() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let events = [1, 2, 3].map(|n| Numbered { n });
    let envelope = Envelope::builder(Numbered::TYPE, "shop")
        .data(&Numbered { n: 4 })
        .unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    let published = ezq.publish_all(&events).within(&mut tx).await.unwrap();
    ezq.publish_envelope(envelope.build().unwrap())
        .within(&mut tx)
        .await
        .unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
    tx.commit().await.unwrap();

    assert_eq!(published.len(), 3);
    assert_eq!(held(&ezq, &queue).await, [4, 0, 0, 0]);
    drain(&ezq).await;
    assert_eq!(work.handled.take(), [1, 2, 3, 4]);

    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish_all(&events).within(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_refused_one_of_several_events_in_a_transaction_harms_no_other() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let events = [r#""first""#, r#""\u0000""#, r#""last""#].map(raw);
    let mut tx = ezq.pool().begin().await.unwrap();
    let failure = ezq.publish_all(&events).within(&mut tx).await.unwrap_err();
    tx.commit().await.unwrap();

    assert_eq!(failure.stored().count(), 2);
    let failed: Vec<_> = failure
        .failures()
        .map(|(place, error)| (place, error.kind()))
        .collect();
    assert_eq!(failed, [(1, ErrorKind::InvalidEvent)]);
    assert_eq!(held(&ezq, &queue).await, [2, 0, 0, 0]);
}

#[tokio::test]
async fn a_queue_that_the_transaction_itself_has_made_is_published_to() {
    let (ezq, work) = connect(&queue()).await;
    let made = queue();
    let mut tx = ezq.pool().begin().await.unwrap();
    let create = "select pgmq.create($1)";
    sqlx::query(create)
        .bind(made.as_str())
        .execute(&mut *tx)
        .await
        .unwrap();

    let publish = ezq.publish(&Numbered { n: 1 }).queue(&made);
    let published = soon(publish.within(&mut tx)).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(published.queue, made);
    let report = soon(ezq.consumer().queue(&made).until_idle().run())
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 1);
    assert_eq!(work.handled.take(), [1]);
}

const PAUSE: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_event_with_a_known_key_is_a_duplicate_of_the_first() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let publish = |n| ezq.publish(&Numbered { n }).dedupe_key("order-7");
    let first = publish(1).await.unwrap();
    assert!(!first.is_duplicate);

    let second = publish(2).await.unwrap();
    assert!(second.is_duplicate);
    assert_eq!(
        (second.id.clone(), second.event_id.clone()),
        (first.id.clone(), first.event_id.clone())
    );
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(publish(3).await.unwrap(), second);

    // Another queue, another key, no key.
    let elsewhere = crate::kit::queue();
    assert!(!publish(4).queue(&elsewhere).await.unwrap().is_duplicate);

    let other = ezq
        .publish(&Numbered { n: 5 })
        .dedupe_key("order-8")
        .await
        .unwrap();
    assert!(!other.is_duplicate && other.event_id != first.event_id);

    ezq.publish(&Numbered { n: 6 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(work.handled.sorted(), [1, 5, 6]);
}

#[tokio::test]
async fn a_key_is_free_after_the_window_of_the_publish_or_of_the_application() {
    let queue = queue();
    let minute = Duration::from_secs(60);
    let builder = app(&queue).configure(|config| config.dedupe_window = minute);
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .dedupe_key("a")
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 })
        .dedupe_key("b")
        .dedupe_window(2 * minute)
        .await
        .unwrap();

    let sql = "SELECT array_agg(extract(epoch FROM free_at - taken_at)::int ORDER BY key)
               FROM ezq.dedupe WHERE queue = $1";
    let windows: Vec<i32> = sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert_eq!(windows, [60, 120]);

    for wrong in [
        ezq.publish(&Numbered { n: 1 }).dedupe_key(""),
        ezq.publish(&Numbered { n: 1 }).dedupe_key("a".repeat(256)),
        ezq.publish(&Numbered { n: 1 }).dedupe_key("a\0"),
        ezq.publish(&Numbered { n: 1 })
            .dedupe_key("a")
            .dedupe_window(Duration::ZERO),
        ezq.publish(&Numbered { n: 1 }).dedupe_window(minute),
    ] {
        assert_eq!(wrong.await.unwrap_err().kind(), ErrorKind::InvalidEvent);
    }
}

#[tokio::test]
async fn a_key_in_a_transaction_is_taken_when_that_commits() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let publish = || ezq.publish(&Numbered { n: 1 }).dedupe_key("a");
    let mut tx = ezq.pool().begin().await.unwrap();
    assert!(!publish().within(&mut tx).await.unwrap().is_duplicate);

    tx.rollback().await.unwrap();
    let mut tx = ezq.pool().begin().await.unwrap();
    let first = publish().within(&mut tx).await.unwrap();
    let again = publish().within(&mut tx).await.unwrap();
    assert!(again.is_duplicate);
    assert_eq!(
        (again.id.clone(), again.event_id.clone()),
        (first.id.clone(), first.event_id.clone())
    );

    tx.commit().await.unwrap();
    assert_eq!(publish().await.unwrap(), again);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn keys_work_again_after_their_queue_and_their_schema_were_dropped() {
    let name = crate::database::unique("dropped");
    let server = crate::database::server().await;
    let mut admin = crate::database::connection(&server.url()).await;
    crate::database::run(&mut admin, &format!("CREATE DATABASE {name}")).await;

    let ezq = crate::database::app(&server.database_url(name.as_str()), []).await;
    let publish = || ezq.publish(&Numbered { n: 1 }).dedupe_key("a");
    for drop in ["SELECT pgmq.drop_queue('ezq')", "DROP SCHEMA ezq CASCADE"] {
        assert!(!publish().await.unwrap().is_duplicate);
        assert!(publish().await.unwrap().is_duplicate);
        sqlx::raw_sql(drop).execute(ezq.pool()).await.unwrap();
    }
    assert!(!publish().await.unwrap().is_duplicate);
}

#[tokio::test]
async fn a_refused_event_leaves_the_callers_transaction_usable() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .within(&mut tx)
        .await
        .unwrap();

    for bad in [r#""\u0000""#, r#""\ud800""#] {
        let error = ezq.publish(&raw(bad)).within(&mut tx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    }
    tx.commit().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
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
