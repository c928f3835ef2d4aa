//! Stops that a program decides on: a token, a handle, `stop_all`.

use std::time::{Duration, Instant};

use ezq::consumer::StopReason;
use ezq::prelude::*;
use ezq::{CancellationToken, Handler};

use super::{all_settled, connect};
use crate::kit::{Log, Numbered, Work, app, drain, held, numbered, queue, soon, until};

#[tokio::test]
async fn stop_all_stops_every_consumer_that_runs_and_none_that_starts_later() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for(1..=3);
    let ezq = connect(&queue, handler).await;
    let one = ezq.consumer().concurrency(1).spawn();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(work.started().await, 1);
    let other = ezq.consumer().concurrency(1).spawn();

    // The first can take only one of these beside what it runs.
    ezq.publish_all(&numbered(2..=3)).await.unwrap();
    work.started().await;
    ezq.stop_all(&queue, None).await.unwrap();

    // Busy consumers learn of it although one that began later meets it before them.
    all_settled(drain(&ezq).await.counts, [0; 5]);
    work.open();

    for consumer in [one, other] {
        assert_eq!(soon(consumer).await.unwrap().reason, StopReason::End);
    }
    assert_eq!(work.handled.sorted(), [1, 2, 3]);

    ezq.publish(&Numbered { n: 4 }).await.unwrap();
    all_settled(drain(&ezq).await.counts, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn stop_all_stops_a_consumer_while_another_still_drains() {
    let queue = queue();
    let (handler, mut slow) = Work::waiting_for([3]);
    let (other, mut full) = Work::waiting_for([1, 2]);

    let slow_app = connect(&queue, handler).await;
    let full_app = connect(&queue, other).await;
    let full_one = full_app.consumer().concurrency(1).spawn();
    slow_app.publish_all(&numbered(1..=2)).await.unwrap();
    assert_eq!(full.started().await, 1);
    until(async || held(&slow_app, &queue).await == [0, 2, 0, 0]).await;

    // That one holds all it can; this one has room and meets the end first.
    let slow_one = slow_app.consumer().spawn();
    slow_app.publish(&Numbered { n: 3 }).await.unwrap();
    assert_eq!(slow.started().await, 3);
    slow_app.stop_all(&queue, None).await.unwrap();

    full.open();
    let report = soon(full_one).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [2, 0, 0, 0, 0]);
    assert!(slow_one.is_running());
    slow.open();

    let report = soon(slow_one).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_token_set_by_a_handler_stops_its_consumer() {
    let queue = queue();
    let token = CancellationToken::new();
    let set = token.clone();
    let log = Log::new();
    let seen = log.clone();

    let handler = Handler::on("stops", move |event: Numbered| {
        let set = set.clone();
        let seen = seen.clone();
        async move {
            set.cancel();
            tokio::task::yield_now().await;
            seen.push(event.n);
        }
    });

    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=5)).await.unwrap();

    let report = soon(ezq.consumer().concurrency(1).stop_on(token).run())
        .await
        .unwrap();
    assert_eq!(report.reason, StopReason::Token);
    let handled = log.take();
    assert_eq!(handled[0], 1, "the handler that stopped it finished");

    let count = u64::try_from(handled.len()).unwrap();
    all_settled(report.counts, [count, 0, 0, 0, report.counts.returned]);
    assert!(count <= 2, "{report}");
    assert_eq!(held(&ezq, &queue).await, [5 - count, 0, 0, 0]);
}

#[tokio::test]
async fn what_was_fetched_and_not_begun_goes_back_at_once_when_a_token_fires() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1, 2]);
    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=10)).await.unwrap();

    let token = CancellationToken::new();
    let consumer = ezq.consumer().concurrency(2).stop_on(token.clone()).spawn();
    assert_eq!([work.started().await, work.started().await], [1, 2]);

    until(async || held(&ezq, &queue).await == [6, 4, 0, 0]).await;
    token.cancel();
    // The others are read while the first two still run.
    until(async || held(&ezq, &queue).await == [8, 2, 0, 0]).await;

    all_settled(drain(&ezq).await.counts, [8, 0, 0, 0, 0]);
    assert_eq!(work.handled.sorted(), (3..=10).collect::<Vec<_>>());
    assert!(
        consumer.is_running(),
        "it waits for its handlers without limit"
    );
    assert_eq!(consumer.counts().returned, 2);

    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Token);
    all_settled(report.counts, [2, 0, 0, 0, 2]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_grace_bounds_how_long_a_token_waits() {
    for grace in [Duration::ZERO, Duration::from_millis(200)] {
        let queue = queue();
        let (handler, mut work) = Work::waiting_for([1]);
        let ezq = connect(&queue, handler).await;
        ezq.publish(&Numbered { n: 1 }).await.unwrap();

        let token = CancellationToken::new();
        let consumer = ezq.consumer().stop_on(token.clone()).grace(grace).spawn();
        assert_eq!(work.started().await, 1);

        let stopped = Instant::now();
        token.cancel();

        let report = soon(consumer).await.unwrap();
        assert!(stopped.elapsed() >= grace);
        assert_eq!(report.reason, StopReason::Token);

        all_settled(report.counts, [0, 0, 0, 1, 0]);
        assert_eq!(work.dropped.take(), [1]);
        assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
    }
}

#[tokio::test]
async fn a_grace_of_the_configuration_counts_too() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let builder = app(&queue).configure(|config| config.grace = Some(Duration::from_millis(50)));
    let ezq = builder.register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let consumer = ezq.consumer().spawn();
    assert_eq!(work.started().await, 1);
    consumer.stop();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Handle);
    all_settled(report.counts, [0, 0, 0, 1, 0]);
}

#[tokio::test]
async fn a_handle_observes_stops_and_awaits() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([2]);
    let ezq = connect(&queue, handler).await;
    let consumer = ezq.consumer().spawn();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || consumer.counts().handled == 1).await;
    ezq.publish(&Numbered { n: 2 }).await.unwrap();
    assert_eq!([work.started().await, work.started().await], [1, 2]);

    consumer.stop();
    assert!(consumer.is_running());
    all_settled(consumer.counts(), [1, 0, 0, 0, 0]);
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Handle);

    all_settled(report.counts, [2, 0, 0, 0, 0]);
    let text = report.to_string();
    assert!(text.starts_with("stopped by its handle after "), "{text}");
    assert!(text.ends_with(": 2 handled, 0 retried, 0 dead-lettered, 0 cancelled, 0 returned"));
}

#[tokio::test]
async fn a_handle_stops_an_idle_consumer_without_delay() {
    let queue = queue();
    let ezq = connect(&queue, Work::quick().0).await;
    let consumer = ezq.consumer().spawn();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || consumer.counts().handled == 1).await;

    let asked = Instant::now();
    consumer.stop();
    soon(consumer).await.unwrap();

    // It would look at the queue again only after a second.
    assert!(
        asked.elapsed() < Duration::from_millis(900),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_handle_interrupts_even_while_the_consumer_finishes() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    for stop_first in [false, true] {
        let consumer = ezq.consumer().spawn();
        assert_eq!(work.started().await, 1);

        if stop_first {
            consumer.stop();
        }
        consumer.interrupt();

        let report = soon(consumer).await.unwrap();
        assert_eq!(report.reason, StopReason::Handle);

        // A claim that was on its way may find it again just when it was given back.
        all_settled(report.counts, [0, 0, 0, 1, report.counts.returned]);
        assert!(report.counts.returned <= 1, "{report}");
        assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
    }
}

#[tokio::test]
async fn a_handle_interrupts_what_an_end_waits_for() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&End::default()).await.unwrap();

    let consumer = ezq.consumer().spawn();
    assert_eq!(work.started().await, 1);
    until(async || held(&ezq, &queue).await == [0, 2, 0, 0]).await;
    consumer.interrupt();

    let report = soon(consumer).await.unwrap();
    all_settled(report.counts, [0, 0, 0, 1, report.counts.returned]);

    // The End is left to another consumer unless it was known already that nothing precedes it.
    let left = if report.reason == StopReason::End {
        1
    } else {
        2
    };
    assert_eq!(held(&ezq, &queue).await, [left, 0, 0, 0], "{report}");
}
