//! Stopping a consumer whose queue is paused: what needs no claim works as ever, and control events are
//! found without one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::consumer::StopReason;
use ezq_core::event::{End, Interrupt};
use ezq_core::message::QueueName;
use tokio_util::sync::CancellationToken;

use super::{NOTHING, all, app, pause, publish, ready, running, secs, slow, telling, within};
use crate::faulty::Faulty;

#[tokio::test(start_paused = true)]
async fn an_end_stops_a_consumer_of_a_paused_queue_and_leaves_what_is_before_it() {
    let engine = Faulty::default();
    let (steps, mut told) = telling("steps");
    let app = app(engine.clone(), [steps]);
    pause_and(&app, &[1, 2, 3]).await;
    let handle = app.consumer().spawn();
    running(&handle).await;
    tokio::time::sleep(secs(60)).await;

    app.publish(&End::default()).await.unwrap();
    let began = tokio::time::Instant::now();
    let report = within(handle).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert!(began.elapsed() <= secs(1), "{:?}", began.elapsed());
    assert_eq!(all(&mut told), NOTHING);
    assert_eq!(
        ready(&app).await,
        3,
        "the `End` is settled, and the events stay"
    );
    assert_eq!(engine.faults.fetches.load(Ordering::SeqCst), 0);
}

/// Pauses the queue, with these events in it.
async fn pause_and(app: &ezq_core::app::App, numbers: &[u32]) {
    publish(app, numbers.iter().copied()).await;
    pause(app).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_from_before_the_pause_is_found_among_the_newest_events() {
    let (steps, mut told) = telling("steps");
    let app = app(Faulty::default(), [steps]);
    publish(&app, [1]).await;
    app.publish(&End::default()).await.unwrap();
    pause_and(&app, &[2]).await;

    let report = within(app.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!((all(&mut told), ready(&app).await), (vec![], 2));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_due_later_stops_then() {
    let app = app(Faulty::default(), [telling("steps").0]);
    pause_and(&app, &[1]).await;
    let handle = app.consumer().spawn();
    running(&handle).await;

    let began = tokio::time::Instant::now();
    app.publish(&End::default()).after(secs(100)).await.unwrap();
    assert_eq!(within(handle).await.unwrap().reason, StopReason::End);
    let took = began.elapsed();
    assert!(took >= secs(100) && took <= secs(106), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_end_for_all_stops_every_consumer_of_a_paused_queue() {
    let app = app(Faulty::default(), [telling("steps").0]);
    pause_and(&app, &[1]).await;
    let handles: Vec<_> = (0..5).map(|_| app.consumer().spawn()).collect();
    for handle in &handles {
        running(handle).await;
    }
    tokio::time::sleep(secs(10)).await;

    app.stop_all(&QueueName::default(), None).await.unwrap();
    for handle in handles {
        assert_eq!(within(handle).await.unwrap().reason, StopReason::End);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_what_runs() {
    let (steps, mut told) = slow("steps", secs(300));
    let app = app(Faulty::default(), [steps]);
    publish(&app, [1]).await;
    let handle = app.consumer().spawn();
    within(told.recv()).await;
    pause_and(&app, &[2]).await;

    app.publish(&End::default()).await.unwrap();
    let report = within(handle).await.unwrap();
    assert_eq!((report.reason, report.counts.handled), (StopReason::End, 1));
    assert!(report.elapsed >= secs(300), "{report}");
    assert_eq!(ready(&app).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_the_draining_before_an_end() {
    let (limited, mut told) = slow("limited", secs(60));
    let app = app(Faulty::default(), [limited.concurrency(1)]);
    publish(&app, 0..20).await;
    app.publish(&End::default()).await.unwrap();
    let handle = app.consumer().concurrency(40).spawn();
    within(told.recv()).await;
    // It has met the `End`, and 19 events wait before it.
    tokio::time::sleep(secs(5)).await;

    pause(&app).await;
    let report = within(handle).await.unwrap();
    assert_eq!((report.reason, report.counts.handled), (StopReason::End, 1));
    assert!(report.elapsed < secs(70), "{report}");
    assert_eq!(ready(&app).await, 19);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_cancels_what_runs_in_a_paused_queue() {
    let (limited, mut told) = slow("limited", secs(100_000));
    let app = app(Faulty::default(), [limited.concurrency(1)]);
    publish(&app, [1, 2, 3]).await;
    let handle = app.consumer().spawn();
    within(told.recv()).await;
    pause(&app).await;

    app.publish(&Interrupt::default()).await.unwrap();
    let report = within(handle).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);
    assert!(report.elapsed < secs(10), "{report}");
    assert_eq!(ready(&app).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_a_paused_queue_stops_by_its_token_its_handle_and_when_it_is_idle() {
    let app = app(Faulty::default(), [telling("steps").0]);
    pause_and(&app, &[1]).await;

    let token = CancellationToken::new();
    let by_token = app.consumer().stop_on(token.clone()).spawn();
    let by_handle = app.consumer().spawn();
    let by_interrupt = app.consumer().spawn();
    for handle in [&by_token, &by_handle, &by_interrupt] {
        running(handle).await;
    }
    tokio::time::sleep(secs(7)).await;

    let began = tokio::time::Instant::now();
    token.cancel();
    by_handle.stop();
    by_interrupt.interrupt();
    assert_eq!(within(by_token).await.unwrap().reason, StopReason::Token);
    assert_eq!(within(by_handle).await.unwrap().reason, StopReason::Handle);
    assert_eq!(
        within(by_interrupt).await.unwrap().reason,
        StopReason::Handle
    );
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );

    let idle = within(app.consumer().until_idle().run()).await.unwrap();
    assert_eq!((idle.reason, idle.counts.handled), (StopReason::Idle, 0));
    assert_eq!(ready(&app).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_what_a_pause_gave_back() {
    let engine = Faulty::default();
    let (steps, mut told) = slow("steps", secs(60));
    let app = app(engine.clone(), [steps]);
    publish(&app, 1..=5).await;
    let handle = app.consumer().concurrency(4).spawn();
    for n in 1..=4 {
        assert_eq!(within(told.recv()).await, Some(n));
    }

    // The pause gives back the event that waits, and the store is slow to take it. Meanwhile the `End` is
    // claimed, and nothing is found before it.
    engine.faults.slow.store(20_000, Ordering::SeqCst);
    pause(&app).await;
    assert!(app.queues().resume("ezq").await.unwrap());
    app.publish(&End::default()).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    engine.faults.slow.store(0, Ordering::SeqCst);

    let report = within(handle).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(all(&mut told), [5]);
    assert_eq!(ready(&app).await, 0);
}
