//! Delays and times: kept to the millisecond, moved and cancelled.

use std::time::{Duration, Instant};

use ezq::engine::Due;
use ezq::prelude::*;
use ezq::publish::Published;
use ezq::sqlx::types::chrono::{DateTime, Utc};
use ezq::{Handler, sqlx};

use super::{connect, number};
use crate::kit::{Log, Numbered, app, drain, held, numbered, queue, soon, until};

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
    soon(consumer).await.unwrap();
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
