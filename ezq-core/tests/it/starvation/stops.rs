//! Stops and crashes while a backlog waits for its turn.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::consumer::StopReason;
use ezq_core::engine::{Engine as _, LeaseRequest};
use ezq_core::event::{End, Interrupt};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;

use super::{
    BACKLOG, CONCURRENCY, Other, Seen, all_ran_once, app, build, numbers, other, publish_steps,
    slow, within,
};
use crate::fixtures::Step;

#[tokio::test(start_paused = true)]
async fn an_interrupt_behind_a_backlog_waits_until_all_of_it_was_begun() {
    const STEPS: u32 = 300;

    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen), other(&seen)]);
    publish_steps(&app, STEPS).await;
    app.publish(&Interrupt::default()).await.unwrap();
    app.publish(&Other { n: 0 }).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(seen.slow().len(), 1, "the first still runs");
    seen.let_go.add_permits(numbers(STEPS) - 1);

    let report = within(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);
    assert_eq!(
        (report.counts.handled, report.counts.cancelled),
        (u64::from(STEPS) - 1, 1)
    );

    all_ran_once(&seen, STEPS);
    assert_eq!(
        seen.others.available_permits(),
        0,
        "nothing that stands behind it starts"
    );
    assert_eq!(app.stats(&QueueName::default()).await.unwrap().ready, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_everything_back_that_waits_for_its_turn() {
    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen), other(&seen)]);
    publish_steps(&app, BACKLOG).await;

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    tokio::time::sleep(Duration::from_secs(20)).await;
    consumer.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.let_go.add_permits(1);

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (
            report.counts.handled,
            report.counts.cancelled,
            report.counts.lost
        ),
        (1, 0, 0)
    );

    let stats = app.stats(&QueueName::default()).await.unwrap();
    assert_eq!(
        (stats.ready, stats.in_progress),
        (u64::from(BACKLOG) - 1, 0)
    );

    seen.let_go.add_permits(numbers(BACKLOG));

    let next = app.consumer().concurrency(CONCURRENCY).until_idle().run();
    assert_eq!(
        within(next).await.unwrap().counts.handled,
        u64::from(BACKLOG) - 1
    );
    all_ran_once(&seen, BACKLOG);
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_consumer_is_stopped_does_not_count_as_reached() {
    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen), other(&seen)]);
    publish_steps(&app, 6).await;
    app.publish(&End::default()).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    tokio::time::sleep(Duration::from_secs(5)).await;
    consumer.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.let_go.add_permits(1);
    assert_eq!(within(consumer).await.unwrap().reason, StopReason::Handle);

    let stats = app.stats(&QueueName::default()).await.unwrap();
    assert_eq!(stats.ready, 6, "five events, and the End behind them");
}

#[tokio::test(start_paused = true)]
async fn a_crash_costs_what_waits_no_attempt() {
    const STEPS: u32 = 300;

    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen), other(&seen)]);
    publish_steps(&app, STEPS).await;

    let crashes = app.consumer().concurrency(CONCURRENCY).run();
    let _ = tokio::time::timeout(Duration::from_secs(20), crashes).await;
    assert_eq!(seen.slow().len(), 1);
    seen.let_go.add_permits(numbers(STEPS));

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    tokio::time::sleep(2 * app.config().lease).await;
    consumer.stop();

    let counts = within(consumer).await.unwrap().counts;
    assert_eq!(
        (counts.handled, counts.dead_lettered),
        (u64::from(STEPS), 0)
    );

    let slow = seen.slow();
    let again: Vec<u32> = slow
        .iter()
        .filter(|(_, runs)| runs.len() > 1)
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(
        (slow.len(), again),
        (numbers(STEPS), vec![0]),
        "only what ran runs again"
    );
}

/// Messages that were delivered twice without being settled run one at a time. Those that wait for
/// their handler do not run.
#[tokio::test(start_paused = true)]
async fn what_may_kill_its_worker_and_waits_keeps_no_other_such_event_from_running() {
    let seen = Arc::<Seen>::default();
    let engine = MemoryEngine::new();
    let app = build(vec![slow(&seen), other(&seen)], engine.clone(), |config| {
        config.max_deliveries = 10;
    });
    let steps: Vec<Step> = (1..7).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
    app.publish(&Other { n: 0 }).await.unwrap();

    let ttl = Duration::from_secs(10);
    let lease_all = async || {
        let queue = QueueName::default();
        let all = LeaseRequest::new(queue, 100, ttl).keys(100);
        assert_eq!(engine.lease(all).await.unwrap().deliveries.len(), 7);
    };

    lease_all().await;
    tokio::time::sleep(2 * ttl).await;
    lease_all().await;
    publish_steps(&app, 1).await;

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    tokio::time::sleep(ttl / 2).await;
    assert_eq!(seen.slow().len(), 1, "one that kills nobody runs");

    seen.others(1).await;
    assert_eq!(seen.slow().len(), 1, "it still runs");

    seen.let_go.add_permits(7);
    app.publish(&End::default()).await.unwrap();
    assert_eq!(within(consumer).await.unwrap().counts.handled, 8);
}
