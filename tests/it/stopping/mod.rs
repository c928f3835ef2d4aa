//! How a consumer stops, one way at a time.

use std::time::{Duration, Instant};

use ezq::consumer::{Counts, StopReason};
use ezq::engine::Outgoing;
use ezq::prelude::*;
use ezq::{CancellationToken, Handler, HandlerError, QueueName, sqlx};
use serde::{Deserialize, Serialize};

use crate::kit::{
    Log, Numbered, Work, app, dead, drain, held, numbered, queue, send_batch, soon, until,
};

/// Far longer than a test may take: what is readable sooner was given back.
const LONG_LEASE: Duration = Duration::from_secs(120);

async fn connect(queue: &QueueName, handler: Handler) -> Ezq {
    let app = app(queue).configure(|config| config.lease = LONG_LEASE);
    app.register(handler).connect().await.unwrap()
}

/// A message as [`Ezq::publish`] would store it.
fn outgoing(ezq: &Ezq, event: &impl Event) -> Outgoing {
    ezq.publish(event).prepare().unwrap().outgoing
}

fn flat(event_type: &str, data: &impl Serialize) -> String {
    let mut body = serde_json::to_value(data).unwrap();
    body["_type"] = event_type.into();
    body.to_string()
}

fn all_settled(counts: Counts, expected: [u64; 5]) {
    let Counts {
        handled,
        retried,
        dead_lettered,
        cancelled,
        returned,
        lost,
        ..
    } = counts;

    assert_eq!(
        [handled, retried, dead_lettered, cancelled, returned],
        expected,
        "{counts}"
    );
    assert_eq!(lost, 0, "{counts}");
}

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

    let report = soon(consumer.wait()).await.unwrap();
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

    let report = soon(consumer.wait()).await.unwrap();
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
async fn interrupt_cancels_what_runs_and_stops_no_other() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1, 2, 3]);
    let ezq = connect(&queue, handler).await;
    let consumer = ezq.consumer().concurrency(4).spawn();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();

    for _ in 0..3 {
        work.started().await;
    }
    ezq.publish(&Interrupt::default()).await.unwrap();

    let report = soon(consumer.wait()).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);

    all_settled(report.counts, [0, 0, 0, 3, 0]);
    assert_eq!(work.dropped.sorted(), [1, 2, 3]);
    assert_eq!(
        held(&ezq, &queue).await,
        [3, 0, 0, 0],
        "the Interrupt itself is settled"
    );

    work.open();
    all_settled(drain(&ezq).await.counts, [3, 0, 0, 0, 0]);
    assert_eq!(work.handled.sorted(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_precedes_an_interrupt_is_handled() {
    for (count, concurrency) in [(5, 4), (50, 4), (500, 16)] {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = connect(&queue, handler).await;
        ezq.publish_all(&numbered(1..=count)).await.unwrap();
        ezq.publish(&Interrupt::default()).await.unwrap();
        ezq.publish_all(&numbered([-1, -2, -3])).await.unwrap();

        let report = soon(ezq.consumer().concurrency(concurrency).run())
            .await
            .unwrap();
        assert_eq!(report.reason, StopReason::Interrupt);
        assert_eq!(work.handled.sorted(), (1..=count).collect::<Vec<_>>());
        assert_eq!(report.counts.cancelled, 0, "{report}");
        assert_eq!(
            held(&ezq, &queue).await,
            [3, 0, 0, 0],
            "what stands behind it"
        );
    }
}

#[tokio::test]
async fn an_interrupt_has_its_turn_once_what_precedes_it_has_begun() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for(1..=3);
    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=3)).await.unwrap();
    ezq.publish(&Interrupt::default()).await.unwrap();

    let consumer = ezq.consumer().concurrency(2).spawn();
    assert_eq!([work.started().await, work.started().await], [1, 2]);

    until(async || held(&ezq, &queue).await == [0, 4, 0, 0]).await;
    assert!(consumer.is_running(), "the third is still to begin");
    work.open_for(1);

    let report = soon(consumer.wait()).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);
    assert_eq!(work.started().await, 3);

    all_settled(report.counts, [1, 0, 0, 2, 0]);
    assert_eq!(held(&ezq, &queue).await, [2, 0, 0, 0]);
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.of_a_key", key = "key")]
struct OfAKey {
    key: String,
    n: i64,
}

#[tokio::test]
async fn an_interrupt_waits_for_what_stands_before_it_of_a_key_and_for_no_other_key() {
    let queue = queue();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let passes = gate.clone();

    let handler = Handler::on("in_turn", move |event: OfAKey| {
        let gate = passes.clone();
        begun.send((event.key.clone(), event.n)).unwrap();
        async move {
            match &*event.key {
                "a" => gate.acquire().await.unwrap().forget(),
                _ => std::future::pending().await,
            }
        }
    });

    let ezq = connect(&queue, handler).await;
    let event = |key: &str, n| OfAKey { key: key.into(), n };
    ezq.publish_all(&[event("b", 1), event("a", 1), event("a", 2), event("a", 3)])
        .await
        .unwrap();
    ezq.publish(&Interrupt::default()).await.unwrap();
    ezq.publish(&event("b", 2)).await.unwrap();

    let consumer = ezq.consumer().concurrency(8).spawn();
    for key in ["b", "a"] {
        assert_eq!(soon(begins.recv()).await, Some((key.into(), 1)));
    }

    // The third of `a` can begin once the second is done; the only one of `b` goes on for ever.
    gate.add_permits(2);

    let report = soon(consumer.wait()).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);

    all_settled(report.counts, [2, 0, 0, 2, report.counts.returned]);
    assert_eq!(
        [begins.try_recv().unwrap().1, begins.try_recv().unwrap().1],
        [2, 3]
    );
    assert!(begins.try_recv().is_err());
    assert_eq!(held(&ezq, &queue).await, [3, 0, 0, 0]);
}

#[tokio::test]
async fn control_events_of_python_ezq_stop_a_consumer() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;

    // By the names of its package `ezq`, and by those of the later one, `ezvent`.
    for (name, reason) in [
        ("EZQEndEvent", StopReason::End),
        ("EZEndEvent", StopReason::End),
        ("EZQInterruptEvent", StopReason::Interrupt),
        ("EZInterruptEvent", StopReason::Interrupt),
    ] {
        send_batch(&ezq, &queue, &[format!(r#"{{"_type": "{name}"}}"#)]).await;
        assert_eq!(
            soon(ezq.consumer().until_idle().run())
                .await
                .unwrap()
                .reason,
            reason,
            "{name}"
        );
    }

    let bodies = [
        flat("test.numbered", &Numbered { n: 1 }),
        flat("EZQEndEvent", &Timeout(0.2)),
    ];
    send_batch(&ezq, &queue, &bodies).await;

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [0, 0, 0, 1, 0]);
    assert_eq!(work.started().await, 1);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn control_events_without_data_stop_a_consumer() {
    let queue = queue();
    let ezq = connect(&queue, Work::quick().0).await;

    for (event_type, reason) in [
        (End::TYPE, StopReason::End),
        (Interrupt::TYPE, StopReason::Interrupt),
    ] {
        let envelope = ezq::Envelope::builder(event_type, "it").build().unwrap();
        ezq.publish_envelope(envelope).await.unwrap();
        assert_eq!(
            soon(ezq.consumer().until_idle().run())
                .await
                .unwrap()
                .reason,
            reason
        );
        assert_eq!(held(&ezq, &queue).await, [0; 4]);
    }
}

struct Timeout(f64);

impl Serialize for Timeout {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({ "timeout": self.0 }).serialize(to)
    }
}

#[tokio::test]
async fn an_end_that_cannot_be_read_is_a_dead_letter_and_stops_nothing() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, handler).await;
    let bodies = [
        flat("EZQEndEvent", &Timeout(-1.0)),
        flat("test.numbered", &Numbered { n: 1 }),
    ];
    send_batch(&ezq, &queue, &bodies).await;

    all_settled(drain(&ezq).await.counts, [1, 0, 1, 0, 0]);
    assert_eq!(work.handled.take(), [1]);
    let reason = dead(&ezq, &queue).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind, ezq::message::ReasonKind::Undecodable);
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
    assert_eq!(soon(stopped.wait()).await.unwrap().reason, StopReason::End);

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || running.counts().handled == 1).await;
    assert_eq!(work.handled.take(), [1]);

    ezq.publish(&End::default()).await.unwrap();
    assert_eq!(soon(running.wait()).await.unwrap().reason, StopReason::End);
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
        assert_eq!(soon(consumer.wait()).await.unwrap().reason, StopReason::End);
    }
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

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
        assert_eq!(soon(consumer.wait()).await.unwrap().reason, StopReason::End);
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
    let report = soon(full_one.wait()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [2, 0, 0, 0, 0]);
    assert!(slow_one.is_running());
    slow.open();

    let report = soon(slow_one.wait()).await.unwrap();
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

    let report = soon(consumer.wait()).await.unwrap();
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

        let report = soon(consumer.wait()).await.unwrap();
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

    let report = soon(consumer.wait()).await.unwrap();
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

    let report = soon(consumer.wait()).await.unwrap();
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
    soon(consumer.wait()).await.unwrap();

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

        let report = soon(consumer.wait()).await.unwrap();
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

    let report = soon(consumer.wait()).await.unwrap();
    all_settled(report.counts, [0, 0, 0, 1, report.counts.returned]);

    // The End is left to another consumer unless it was known already that nothing precedes it.
    let left = if report.reason == StopReason::End {
        1
    } else {
        2
    };
    assert_eq!(held(&ezq, &queue).await, [left, 0, 0, 0], "{report}");
}

#[tokio::test]
async fn handlers_of_control_events_run_and_cannot_prevent_the_stop() {
    let queue = queue();
    let log = Log::new();
    let on_end = log.clone();
    let on_interrupt = log.clone();

    async fn panics(_: Interrupt) {
        panic!("no");
    }

    let ezq = app(&queue)
        .register(Handler::on("fails", |_: End| async { Err::<(), _>("no") }))
        .register(Handler::on("panics", panics))
        .register(Handler::on("says_end", move |_: End| {
            on_end.push("end");
            async {}
        }))
        .register(Handler::on(
            "says_interrupt",
            move |_: Interrupt, context: Context| {
                on_interrupt.push("interrupt");
                async move { assert_eq!(context.attempt(), 1) }
            },
        ))
        .connect()
        .await
        .unwrap();

    ezq.publish(&End::default()).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [0; 5]);
    assert_eq!(log.take(), ["end"]);

    ezq.publish(&Interrupt::default()).await.unwrap();
    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);

    all_settled(report.counts, [0; 5]);
    assert_eq!(log.take(), ["interrupt"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn handlers_of_control_events_are_bounded_by_their_timeout() {
    let queue = queue();
    let hangs = Handler::on("hangs", |_: End| std::future::pending::<()>())
        .timeout(Some(Duration::from_millis(50)));
    let ezq = connect(&queue, hangs).await;
    ezq.publish(&End::default()).await.unwrap();
    assert_eq!(
        soon(ezq.consumer().run()).await.unwrap().reason,
        StopReason::End
    );
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn catch_alls_do_not_see_control_events() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("all", move |event: AnyEvent| {
        seen.push(event.event_type().to_owned());
        async {}
    });
    let ezq = connect(&queue, handler).await;

    for stop in [StopReason::End, StopReason::Interrupt] {
        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        match stop {
            StopReason::End => ezq.publish(&End::default()).await.unwrap(),
            _ => {
                all_settled(drain(&ezq).await.counts, [1, 0, 0, 0, 0]);
                ezq.publish(&Interrupt::default()).await.unwrap()
            }
        };
        assert_eq!(soon(ezq.consumer().run()).await.unwrap().reason, stop);
        assert_eq!(log.take(), ["test.numbered"]);
    }
}

#[tokio::test]
async fn a_report_counts_exactly() {
    let queue = queue();
    let handler = Handler::on("mixed", |event: Numbered, context: Context| async move {
        match event.n {
            1..=3 => Ok(()),
            4 if context.attempt() > 2 => Ok(()),
            4 => Err(HandlerError::retry("not yet")),
            _ => Err(HandlerError::fatal("never")),
        }
    });

    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=6)).await.unwrap();
    send_batch(&ezq, &queue, &["[]".into()]).await;

    let report = drain(&ezq).await;
    all_settled(report.counts, [4, 2, 3, 0, 0]);
    assert_eq!(held(&ezq, &queue).await, [0, 0, 0, 3]);
}

#[tokio::test]
async fn a_handler_that_publishes_an_end_stops_its_own_consumer() {
    let queue = queue();
    let handler = Handler::on("ends", |_: Numbered, publisher: Publisher| async move {
        publisher.publish(&End::default()).await?;
        Ok::<(), HandlerError>(())
    });
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [1, 0, 0, 0, 0]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_handler_that_returns_a_control_event_stops_its_own_consumer() {
    let queue = queue();
    let ezq = app(&queue)
        .register(Handler::on("ends", |event: Numbered| async move {
            match event.n {
                1 => (Some(End::default()), None),
                _ => (None, Some(Interrupt::default())),
            }
        }))
        .connect()
        .await
        .unwrap();

    for (n, reason) in [(1, StopReason::End), (2, StopReason::Interrupt)] {
        ezq.publish(&Numbered { n }).await.unwrap();
        let report = soon(ezq.consumer().run()).await.unwrap();
        assert_eq!(report.reason, reason);
        all_settled(report.counts, [1, 0, 0, 0, 0]);
        assert_eq!(held(&ezq, &queue).await, [0; 4]);
    }
}
