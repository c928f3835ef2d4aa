//! What an outbox table tells of its events, told of ours: scheduled, pending, processing, retried,
//! failed and handled, with the last error, and what is done about the failed ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ezq::admin::{DeadLetterFilter, EventStatus};
use ezq::engine::Due;
use ezq::handler::Backoff;
use ezq::memory::MemoryEngine;
use ezq::message::Retention;
use ezq::prelude::*;
use ezq::{Handler, QueueName};

use crate::kit::{Numbered, Work, app, drain, queue, until};

const HOUR: Duration = Duration::from_secs(3600);

/// A handler that fails until it is told to succeed.
fn stubborn() -> (Handler, Arc<AtomicBool>) {
    let succeeds = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&succeeds);
    let handler = Handler::on("outbox", move |event: Numbered| {
        let outcome = match flag.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(HandlerError::from(format!("no answer to {}", event.n))),
        };
        std::future::ready(outcome)
    });
    (handler, succeeds)
}

async fn status(ezq: &Ezq, event_id: &str) -> (Option<EventStatus>, Option<String>) {
    let history = ezq.history(event_id).await.unwrap();
    (history.status(), history.last_error().map(str::to_owned))
}

#[tokio::test]
async fn a_scheduled_event_is_pending_and_a_failed_one_is_retried_or_redriven() {
    let queue = queue();
    let (handler, succeeds) = stubborn();
    let builder = app(&queue)
        .register(handler)
        .retention(&queue, Retention::ARCHIVE);
    let builder = builder.configure(|config| config.retry.backoff = Backoff::constant(HOUR));
    let ezq = builder.connect().await.unwrap();
    let error = |n: i64| Some(format!("no answer to {n}"));

    let in_an_hour = chrono::Utc::now() + HOUR;
    let patient = ezq
        .publish(&Numbered { n: 1 })
        .at(in_an_hour)
        .await
        .unwrap();

    let single = ezq
        .publish(&Numbered { n: 2 })
        .at(in_an_hour)
        .max_attempts(1)
        .await
        .unwrap();
    drain(&ezq).await;

    for event in [&patient, &single] {
        assert_eq!(
            status(&ezq, &event.event_id).await,
            (Some(EventStatus::Pending), None)
        );
        ezq.reschedule(event, Due::Now).await.unwrap();
    }

    drain(&ezq).await;
    let retried = (Some(EventStatus::Retrying), error(1));
    assert_eq!(status(&ezq, &patient.event_id).await, retried);
    let failed = (Some(EventStatus::Failed), error(2));
    assert_eq!(status(&ezq, &single.event_id).await, failed);

    succeeds.store(true, Ordering::Relaxed);
    let letters = ezq.dead_letters(&queue).unwrap();
    letters
        .redrive(DeadLetterFilter::all().event_type("test.numbered"))
        .await
        .unwrap();

    let again = (Some(EventStatus::Pending), error(2));
    assert_eq!(status(&ezq, &single.event_id).await, again);

    drain(&ezq).await;
    let handled = (Some(EventStatus::Handled), error(2));
    assert_eq!(status(&ezq, &single.event_id).await, handled);
    assert_eq!(status(&ezq, &patient.event_id).await, retried);
}

#[tokio::test]
async fn an_event_is_processing_while_its_handler_runs_and_nothing_is_kept_of_it_afterwards() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let event = ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let handle = ezq.consumer().spawn();
    assert_eq!(work.started().await, 1);
    assert_eq!(
        status(&ezq, &event.event_id).await,
        (Some(EventStatus::Processing), None)
    );

    work.open();
    until(|| async { status(&ezq, &event.event_id).await.0.is_none() }).await;
    handle.stop();
    handle.await.unwrap();
}

#[tokio::test]
async fn of_several_copies_the_one_with_most_amiss_tells_the_status() {
    let good = queue();
    let bad = queue();
    let (handler, succeeds) = stubborn();
    let builder = app(&good).register(handler);
    let builder = builder
        .retention(&good, Retention::ARCHIVE)
        .retention(&bad, Retention::ARCHIVE);

    let ezq = builder
        .configure(|config| config.retry.max_attempts = 1)
        .connect()
        .await
        .unwrap();

    let envelope = ezq::Envelope::builder("test.numbered", "tests")
        .json(r#"{"n":5}"#)
        .unwrap();
    let envelope = envelope.build().unwrap();

    let run = async |queue: &QueueName, succeed: bool| {
        succeeds.store(succeed, Ordering::Relaxed);
        ezq.publish_envelope(envelope.clone())
            .queue(queue)
            .await
            .unwrap();

        ezq.consumer()
            .queue(queue)
            .until_idle()
            .run()
            .await
            .unwrap();
        status(&ezq, envelope.id()).await
    };
    assert_eq!(run(&good, true).await, (Some(EventStatus::Handled), None));

    let failed = (Some(EventStatus::Failed), Some("no answer to 5".to_owned()));
    assert_eq!(run(&bad, false).await, failed);
}

#[tokio::test]
async fn nothing_is_told_of_an_event_that_never_was() {
    let app = ezq::App::builder()
        .without_discovered_handlers()
        .build(MemoryEngine::new())
        .unwrap();
    let history = app.history("no such event").await.unwrap();
    assert_eq!((history.status(), history.last_error()), (None, None));
}
