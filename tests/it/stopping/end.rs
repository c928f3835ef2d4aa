//! `End`: what precedes it is handled, what follows is left to others.

use std::time::Duration;

use ezq::consumer::StopReason;
use ezq::prelude::*;
use ezq::{Handler, HandlerError, sqlx};

use super::{all_settled, connect, flat, outgoing};
use crate::kit::{Log, Numbered, Work, drain, held, numbered, queue, send_batch, soon, until};

#[tokio::test]
async fn end_drains_what_was_due_before_it() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=200)).await.unwrap();
    ezq.publish(&End::default()).await.unwrap();
    ezq.publish_all(&numbered(201..=220)).await.unwrap();

    let report = soon(ezq.consumer().concurrency(2).run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(work.handled.sorted(), (1..=200).collect::<Vec<_>>());

    all_settled(report.counts, [200, 0, 0, 0, report.counts.returned]);
    assert!(report.counts.returned <= 20, "{report}");
    assert_eq!(held(&ezq, &queue).await, [20, 0, 0, 0]);

    all_settled(drain(&ezq).await.counts, [20, 0, 0, 0, 0]);
    assert_eq!(work.handled.sorted(), (201..=220).collect::<Vec<_>>());
}

#[tokio::test]
async fn end_cancels_what_runs_longer_than_its_timeout() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&End::within(Duration::from_millis(300)))
        .await
        .unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [0, 0, 0, 1, 0]);
    assert!(report.elapsed >= Duration::from_millis(300), "{report}");
    assert_eq!(work.started().await, 1);
    assert_eq!(work.dropped.take(), [1], "its future is gone");
    assert_eq!(
        held(&ezq, &queue).await,
        [1, 0, 0, 0],
        "readable at once, the End is settled"
    );

    work.open();
    all_settled(drain(&ezq).await.counts, [1, 0, 0, 0, 0]);
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn end_waits_for_what_finishes_within_its_timeout() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&End::within(Duration::from_secs(60)))
        .await
        .unwrap();

    let consumer = ezq.consumer().spawn();
    assert_eq!(work.started().await, 1);

    until(async || held(&ezq, &queue).await == [0, 2, 0, 0]).await;
    assert!(consumer.is_running(), "it waits for its handler");
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [1, 0, 0, 0, 0]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn what_stood_after_an_end_in_one_batch_is_left_to_others() {
    for concurrency in [1, 2, 16] {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = connect(&queue, handler).await;
        let mut batch: Vec<_> = numbered(1..=10)
            .iter()
            .map(|event| outgoing(&ezq, event))
            .collect();
        batch.insert(5, outgoing(&ezq, &End::default()));

        let engine = ezq.engine(&queue);
        engine.ensure_queue(&queue).await.unwrap();
        engine.publish(batch).await.unwrap();

        let report = soon(ezq.consumer().concurrency(concurrency).run())
            .await
            .unwrap();
        assert_eq!(report.reason, StopReason::End);
        assert_eq!(
            work.handled.sorted(),
            [1, 2, 3, 4, 5],
            "concurrency {concurrency}"
        );

        all_settled(report.counts, [5, 0, 0, 0, report.counts.returned]);
        assert_eq!(held(&ezq, &queue).await, [5, 0, 0, 0]);

        let other = soon(ezq.consumer().concurrency(1).until_idle().run())
            .await
            .unwrap();
        all_settled(other.counts, [5, 0, 0, 0, 0]);
        assert_eq!(work.handled.take(), [6, 7, 8, 9, 10], "in their order");
    }
}

#[tokio::test]
async fn what_stood_after_an_end_with_the_same_due_time_is_left_to_others() {
    for concurrency in [1, 2, 16] {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = connect(&queue, handler).await;
        let mut batch: Vec<_> = numbered(1..=10)
            .iter()
            .map(|event| flat("test.numbered", event))
            .collect();
        batch.insert(5, r#"{"_type": "EZQEndEvent"}"#.into());
        send_batch(&ezq, &queue, &batch).await;

        let report = soon(ezq.consumer().concurrency(concurrency).run())
            .await
            .unwrap();
        assert_eq!(report.reason, StopReason::End);
        assert_eq!(
            work.handled.sorted(),
            [1, 2, 3, 4, 5],
            "concurrency {concurrency}"
        );
        assert_eq!(held(&ezq, &queue).await, [5, 0, 0, 0]);

        let other = soon(ezq.consumer().until_idle().run()).await.unwrap();
        all_settled(other.counts, [5, 0, 0, 0, 0]);
        assert_eq!(work.handled.sorted(), [6, 7, 8, 9, 10]);
    }
}

#[tokio::test]
async fn an_end_that_is_claimed_first_waits_for_what_precedes_it() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, handler).await;
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();

    // One due time, and stored in another order than that of their ids.
    let end = [(50, r#"{"_type": "EZQEndEvent"}"#.to_owned())];
    let others = (1..=10)
        .chain(51..=55)
        .map(|n| (n, flat("test.numbered", &Numbered { n })));
    let (ids, bodies): (Vec<i64>, Vec<String>) = end.into_iter().chain(others).unzip();

    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO pgmq.q_{queue} (msg_id, vt, message) OVERRIDING SYSTEM VALUE
         SELECT id, now(), body::jsonb FROM unnest($1::bigint[], $2::text[]) AS m(id, body)"
    )))
    .bind(ids)
    .bind(bodies)
    .execute(ezq.pool())
    .await
    .unwrap();

    let report = soon(ezq.consumer().concurrency(1).run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(work.handled.sorted(), (1..=10).collect::<Vec<_>>());
    assert_eq!(held(&ezq, &queue).await, [5, 0, 0, 0]);
}

#[tokio::test]
async fn what_was_fetched_before_an_end_that_precedes_it_goes_back() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1, 2]);
    let ezq = connect(&queue, handler).await;

    // The End takes its place in the queue now and is seen later.
    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish(&End::default()).within(&mut tx).await.unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();

    let consumer = ezq.consumer().concurrency(2).spawn();
    assert_eq!([work.started().await, work.started().await], [1, 2]);

    until(async || held(&ezq, &queue).await == [0, 3, 0, 0]).await;
    tx.commit().await.unwrap();
    until(async || consumer.counts().returned == 1).await;
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [2, 0, 0, 0, 1]);
    assert_eq!(work.handled.sorted(), [1, 2]);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn end_does_not_wait_for_what_falls_due_later() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();

    let handler = Handler::on("fails", move |event: Numbered| {
        seen.push(event.n);
        async move {
            match event.n {
                1 => Err(HandlerError::retry_after(
                    Duration::from_secs(3600),
                    "later",
                )),
                _ => Ok(()),
            }
        }
    });

    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=2)).await.unwrap();
    ezq.publish(&Numbered { n: 3 })
        .after(Duration::from_secs(3600))
        .await
        .unwrap();
    ezq.publish(&End::default()).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [1, 1, 0, 0, 0]);
    assert_eq!(log.sorted(), [1, 2]);
    assert_eq!(
        held(&ezq, &queue).await,
        [0, 1, 1, 0],
        "one retry, one scheduled"
    );
}

#[tokio::test]
async fn one_end_stops_one_consumer() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, handler).await;
    let one = ezq.consumer().spawn();
    let other = ezq.consumer().spawn();
    ezq.publish(&End::default()).await.unwrap();
    until(async || !(one.is_running() && other.is_running())).await;

    let (stopped, running) = if one.is_running() {
        (other, one)
    } else {
        (one, other)
    };
    assert_eq!(soon(stopped).await.unwrap().reason, StopReason::End);

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || running.counts().handled == 1).await;
    assert_eq!(work.handled.take(), [1]);

    ezq.publish(&End::default()).await.unwrap();
    assert_eq!(soon(running).await.unwrap().reason, StopReason::End);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn two_ends_stop_two_consumers() {
    let queue = queue();
    let ezq = connect(&queue, Work::quick().0).await;
    let one = ezq.consumer().spawn();
    let other = ezq.consumer().spawn();
    ezq.publish_all(&[End::default(), End::default()])
        .await
        .unwrap();

    for consumer in [one, other] {
        assert_eq!(soon(consumer).await.unwrap().reason, StopReason::End);
    }
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}
