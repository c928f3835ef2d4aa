//! `Interrupt`: what precedes it begins, and what then runs is cancelled.

use ezq::Handler;
use ezq::consumer::StopReason;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

use super::{all_settled, connect};
use crate::kit::{Work, drain, held, numbered, queue, soon, until};

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

    let report = soon(consumer).await.unwrap();
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

    let report = soon(consumer).await.unwrap();
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

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);

    all_settled(report.counts, [2, 0, 0, 2, report.counts.returned]);
    assert_eq!(
        [begins.try_recv().unwrap().1, begins.try_recv().unwrap().1],
        [2, 3]
    );
    assert!(begins.try_recv().is_err());
    assert_eq!(held(&ezq, &queue).await, [3, 0, 0, 0]);
}
