//! The events of a queue, page by page, and one of them tried at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::{EventFilter, EventState, PageCursor};
use ezq_core::app::App;
use ezq_core::consumer::ConsumerHandle;
use ezq_core::engine::{Engine, EventCopy};
use ezq_core::handler::{Handler, HandlerError};
use ezq_core::memory::MemoryEngine;

use crate::faulty::Faulty;
use crate::fixtures::{Mail, Step};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app(engine: impl Engine, handlers: impl IntoIterator<Item = Handler>) -> App {
    let builder = App::builder().without_discovered_handlers();
    let builder = handlers
        .into_iter()
        .fold(builder, |app, one| app.register(one));
    builder.build(engine).unwrap()
}

fn numbers(events: &[EventCopy]) -> Vec<u32> {
    let steps = events
        .iter()
        .map(|event| event.event::<Step>().unwrap().unwrap());
    steps.map(|step| step.n).collect()
}

async fn stopped(handle: ConsumerHandle) {
    handle.interrupt();
    handle.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_and_their_events_can_be_read() {
    let app = app(MemoryEngine::new(), []);
    let steps: Vec<Step> = (0..120).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
    app.publish(&Mail {}).queue("ezq").await.unwrap();

    let events = app.events("ezq").unwrap();
    let of_steps = EventFilter::all().event_type("step");
    let mut seen = Vec::new();
    let mut query = events.page(EventState::Ready).filter(of_steps.clone());
    loop {
        let page = query.await.unwrap();
        seen.extend(numbers(&page.events));
        let Some(next) = page.next else { break };
        // As an address would keep it.
        let next = PageCursor::new(next.to_string());
        query = events
            .page(EventState::Ready)
            .filter(of_steps.clone())
            .after(next);
    }
    assert_eq!(seen, Vec::from_iter(0..120));

    let all = events.page(EventState::Ready).limit(1000).await.unwrap();
    assert_eq!((all.events.len(), all.next), (121, None));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_cannot_be_is_refused() {
    let faulty = Faulty::default();
    faulty.faults.unbrowsable.store(true, Ordering::SeqCst);
    let without = app(faulty, []);
    let kind = without.events("ezq").map(drop).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Unsupported);

    let app = app(MemoryEngine::new(), []);
    assert_eq!(
        app.events("Not a name").map(drop).unwrap_err().kind(),
        ErrorKind::InvalidQueueName
    );
    let events = app.events("missing").unwrap();
    for limit in [0, 1001] {
        let page = events.page(EventState::Ready).limit(limit).await;
        assert_eq!(
            page.unwrap_err().kind(),
            ErrorKind::Configuration,
            "{limit}"
        );
    }
    let page = events.page(EventState::Dead).await;
    assert_eq!(page.unwrap_err().kind(), ErrorKind::QueueMissing);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_for_a_retry_is_tried_at_once_and_counts_on() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let failing = Handler::on("failing", move |_: Step| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(HandlerError::retry_after(secs(3600), "not yet")) }
    });
    let app = app(MemoryEngine::new(), [failing.max_attempts(3)]);
    app.publish(&Step { n: 1 }).await.unwrap();
    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(10)).await;

    let events = app.events("ezq").unwrap();
    for attempt in 1..3 {
        assert_eq!(runs.load(Ordering::SeqCst), attempt);
        let failing = EventFilter::all().handler("failing").error("not yet");
        let page = events
            .page(EventState::Retrying)
            .filter(failing)
            .await
            .unwrap();
        let [waiting] = &page.events[..] else {
            panic!("{} events wait", page.events.len());
        };
        assert!(events.retry_now(&waiting.message_id).await.unwrap());
        tokio::time::sleep(secs(1)).await;
    }

    // The third attempt was the last.
    let dead = events.page(EventState::Dead).await.unwrap().events;
    assert_eq!(numbers(&dead), [1]);
    assert!(
        !events.retry_now(&dead[0].message_id).await.unwrap(),
        "it is a dead letter"
    );
    stopped(handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_worker_has_is_left_to_it() {
    let slow = Handler::on("slow", |_: Step| tokio::time::sleep(secs(1000))).timeout(None);
    let app = app(MemoryEngine::new(), [slow]);
    app.publish(&Step { n: 1 }).await.unwrap();
    let handle = app.consumer().spawn();
    tokio::time::sleep(secs(1)).await;

    let events = app.events("ezq").unwrap();
    let leased = events.page(EventState::Leased).await.unwrap().events;
    assert_eq!(numbers(&leased), [1]);
    let refused = events.retry_now(&leased[0].message_id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LeaseLost);
    stopped(handle).await;
}
