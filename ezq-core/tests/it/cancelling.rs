//! An operator cancels an event, whether it waits or runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::admin::{Cancel, CancelOutcome, DeadLetterFilter, EventState};
use ezq_core::app::App;
use ezq_core::engine::{CancelOrder, DeadLetter, Engine, LeaseRequest, Settle};
use ezq_core::event::Event;
use ezq_core::handler::{Backoff, Batch, Context, Handler};
use ezq_core::message::{MessageId, Progress, QueueName, Reason, ReasonKind, Retention};
use ezq_core::observe::NoticeKind;
use ezq_core::testing::TestApp;
use serde::{Deserialize, Serialize};

use crate::faulty::Faulty;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Paid {
    order: i64,
}

impl Event for Paid {
    const TYPE: &'static str = "paid";
}

#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    order: i64,
}

impl Event for Receipt {
    const TYPE: &'static str = "receipt";
    const QUEUE: Option<&'static str> = Some("receipts");
}

/// What a handler has begun, and what was dropped before it was through.
#[derive(Clone, Default)]
struct Runs {
    begun: Arc<Mutex<Vec<i64>>>,
    dropped: Arc<Mutex<Vec<i64>>>,
}

impl Runs {
    /// A handler that never ends for orders above 100, and is done with others.
    fn handler(&self) -> Handler {
        let runs = self.clone();
        Handler::on("book", move |Paid { order }: Paid| {
            let runs = runs.clone();
            async move {
                runs.begun.lock().unwrap().push(order);
                if order > 100 {
                    let _cut_off = CutOff(order, runs);
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn begun(&self) -> Vec<i64> {
        self.begun.lock().unwrap().clone()
    }

    fn dropped(&self) -> Vec<i64> {
        self.dropped.lock().unwrap().clone()
    }
}

struct CutOff(i64, Runs);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.1.dropped.lock().unwrap().push(self.0);
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    // In paused time, so this takes no longer than what it waits for.
    for _ in 0..60_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within ten minutes: {what}");
}

async fn dead(app: &TestApp, queue: &QueueName) -> Vec<DeadLetter> {
    let letters = app.dead_letters(queue).unwrap();
    letters.list(&DeadLetterFilter::all(), 10).await.unwrap()
}

async fn is_empty(app: &TestApp, queue: &QueueName) -> bool {
    let stats = app.stats(queue).await.unwrap();
    stats.ready + stats.in_progress + stats.scheduled == 0
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_is_cancelled_at_once() {
    let retries = Handler::on("mail", |_: Paid| async { Err::<(), _>("no connection") })
        .backoff(Backoff::constant(Duration::from_secs(3600)));
    let app = TestApp::new(|app| app.register(retries).retention("ezq", Retention::ARCHIVE));
    let app = app.unwrap();
    let queue = QueueName::default();

    let later = app
        .publish(&Paid { order: 1 })
        .after(Duration::from_secs(60));
    let later = later.await.unwrap();
    let retrying = app.publish(&Paid { order: 2 }).await.unwrap();
    let handle = app.consumer().spawn();
    let events = app.events(&queue).unwrap();
    until("an event waits for another attempt", async || {
        let page = events.page(EventState::Retrying).await.unwrap();
        !page.events.is_empty()
    })
    .await;
    handle.stop();
    handle.await.unwrap();
    let ready = app.publish(&Paid { order: 3 }).await.unwrap();

    let mut notices = app.notices();
    let dies = events.cancel(&retrying.id, Cancel::Dead).by("Ada");
    let outcome = dies.reason("a test order").await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled);
    let reason = dead(&app, &queue).await[0].reason.clone().unwrap();
    assert_eq!(reason.kind, ReasonKind::Cancelled);
    assert_eq!(reason.error, "cancelled by Ada: a test order");
    assert_eq!(
        reason.attempts, 1,
        "the operator's own lease is no delivery"
    );
    let told = notices.recv().await.unwrap();
    assert!(
        matches!(told.kind, NoticeKind::DeadLettered { .. }),
        "{told:?}"
    );

    for id in [&later.id, &ready.id] {
        let outcome = events.cancel(id, Cancel::Discard).await.unwrap();
        assert_eq!(outcome, CancelOutcome::Cancelled);
        let told = notices.recv().await.unwrap();
        assert!(
            matches!(told.kind, NoticeKind::Discarded { .. }),
            "{told:?}"
        );
    }
    assert!(is_empty(&app, &queue).await);
    for event in [&later.event_id, &ready.event_id] {
        assert!(
            app.history(event).await.unwrap().is_empty(),
            "nothing is archived"
        );
    }

    // A second time.
    let again = events.cancel(&retrying.id, Cancel::Dead).await.unwrap();
    let letter = dead(&app, &queue).await[0].id.clone();
    assert_eq!(again, CancelOutcome::AlreadyDead { letter });
    for id in [&ready.id, &MessageId::Number(4711)] {
        let again = events.cancel(id, Cancel::Dead).await.unwrap();
        assert_eq!(again, CancelOutcome::NotFound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_handler_is_cut_off_and_the_event_dies_or_is_gone() {
    let runs = Runs::default();
    let app = TestApp::new(|app| {
        app.register(runs.handler())
            .retention("ezq", Retention::ARCHIVE)
    });
    let app = app.unwrap();
    let queue = QueueName::default();
    let dies = app.publish(&Paid { order: 101 }).await.unwrap();
    let goes = app.publish(&Paid { order: 102 }).await.unwrap();
    let handle = app.consumer().spawn();
    until("both run", async || runs.begun().len() == 2).await;

    let events = app.events(&queue).unwrap();
    for (id, what) in [(&dies.id, Cancel::Dead), (&goes.id, Cancel::Discard)] {
        let outcome = events.cancel(id, what).await.unwrap();
        assert_eq!(outcome, CancelOutcome::Asked);
    }
    until("both are settled", async || is_empty(&app, &queue).await).await;
    let mut dropped = runs.dropped();
    dropped.sort_unstable();
    assert_eq!(dropped, [101, 102]);
    assert_eq!(runs.begun().len(), 2, "neither runs again");

    let letters = dead(&app, &queue).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    let reason = letters[0].reason.clone().unwrap();
    assert_eq!(reason.kind, ReasonKind::Cancelled);
    let marks = Progress::from_headers(&letters[0].headers);
    assert!(
        marks.is_empty(),
        "it was cut off before its time was over: {marks:?}"
    );
    assert!(app.history(&goes.event_id).await.unwrap().is_empty());

    // The orders are forgotten: a redrive brings the event back under a new id.
    let engine = app.engine();
    let orders = engine.cancellations().unwrap().watch(&queue).await.unwrap();
    until("the orders are forgotten", async || {
        orders.borrow().is_empty()
    })
    .await;

    handle.stop();
    let report = handle.await.unwrap();
    let counts = report.counts;
    assert_eq!(
        (counts.dead_lettered, counts.cancelled, counts.lost),
        (1, 1, 0),
        "{report}"
    );
}

/// Its worker carries the order out before the one who asked looks for the event.
#[tokio::test]
async fn an_order_that_was_carried_out_at_once_was_asked_all_the_same() {
    let engine = Faulty::default();
    let builder = App::builder().without_discovered_handlers();
    let app = builder.build(engine.clone()).unwrap();
    let queue = QueueName::default();
    engine.ensure_queue(&queue).await.unwrap();
    let paid = app.publish(&Paid { order: 1 }).await.unwrap();
    let request = LeaseRequest::new(queue.clone(), 1, Duration::from_secs(30));
    let leased = engine.lease(request).await.unwrap();
    let settlement = Settle::DeadLetter {
        reason: Reason::new(ReasonKind::Cancelled, "cancelled by Ada", 1),
        progress: Progress::default(),
        outgoing: Vec::new(),
    };
    let receipt = leased.deliveries[0].receipt.clone();
    *engine.faults.first.lock().unwrap() = Some((receipt, settlement));

    let events = app.events(&queue).unwrap();
    let outcome = events.cancel(&paid.id, Cancel::Dead).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Asked);
    let again = events.cancel(&paid.id, Cancel::Dead).await.unwrap();
    assert!(
        matches!(again, CancelOutcome::AlreadyDead { .. }),
        "{again:?}"
    );
}

/// It sees its cancellation and says that it is done all the same.
#[tokio::test(start_paused = true)]
async fn what_a_handler_returns_after_it_was_cancelled_does_not_count() {
    let is_second = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_second);
    let book = Handler::on("book", move |Paid { order }: Paid, context: Context| {
        let is_second = seen.swap(true, Ordering::SeqCst);
        async move {
            if !is_second {
                context.cancellation().cancelled().await;
            }
            Receipt { order }
        }
    });
    let app = TestApp::new(|app| app.register(book)).unwrap();
    let queue = QueueName::default();
    let paid = app.publish(&Paid { order: 7 }).await.unwrap();
    let handle = app.consumer().spawn();
    until("it runs", async || is_second.load(Ordering::SeqCst)).await;

    let events = app.events(&queue).unwrap();
    let outcome = events.cancel(&paid.id, Cancel::Dead).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Asked);
    until("it is settled", async || is_empty(&app, &queue).await).await;
    assert_eq!(app.published::<Receipt>().len(), 0, "its event went out");
    handle.stop();
    handle.await.unwrap();

    // After a redrive the handler runs again: its event did not go out.
    let letters = app.dead_letters(&queue).unwrap();
    letters
        .redrive(&dead(&app, &queue).await[0].id)
        .await
        .unwrap();
    app.drain().await.unwrap();
    assert_eq!(app.published::<Receipt>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_not_started_is_settled_and_what_waits_behind_it_goes_on() {
    let runs = Runs::default();
    let app = TestApp::new(|app| app.register(runs.handler())).unwrap();
    let queue = QueueName::default();
    let publish = async |order: i64, key: &str| {
        let paid = app.publish(&Paid { order }).key(key).await.unwrap();
        paid.id
    };
    let running = [publish(101, "a").await, publish(102, "c").await];
    let in_lane = publish(1, "a").await;
    let buffered = publish(3, "b").await;
    publish(2, "a").await;
    publish(4, "b").await;
    let handle = app.consumer().concurrency(2).spawn();
    until("the first two run", async || runs.begun().len() == 2).await;
    let events = app.events(&queue).unwrap();
    until("both are held", async || {
        let leased = events.page(EventState::Leased).await.unwrap().events;
        let is_leased = |id: &MessageId| leased.iter().any(|event| event.message_id == *id);
        is_leased(&in_lane) && is_leased(&buffered)
    })
    .await;

    for id in [&in_lane, &buffered] {
        let outcome = events.cancel(id, Cancel::Dead).await.unwrap();
        assert_eq!(outcome, CancelOutcome::Asked);
    }
    until("both are dead while the first run", async || {
        dead(&app, &queue).await.len() == 2
    })
    .await;
    assert_eq!(runs.begun(), [101, 102]);

    for id in &running {
        events.cancel(id, Cancel::Discard).await.unwrap();
    }
    until("the rest is handled", async || is_empty(&app, &queue).await).await;
    let mut begun = runs.begun();
    begun.sort_unstable();
    assert_eq!(begun, [2, 4, 101, 102]);
    handle.stop();
    assert_eq!(handle.await.unwrap().counts.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_the_worker_that_had_the_event() {
    let runs = Runs::default();
    let app = TestApp::new(|app| app.register(runs.handler())).unwrap();
    let queue = QueueName::default();
    let order = CancelOrder::new(Cancel::Dead, "Ada");
    let engine = app.engine();
    let cancellations = engine.cancellations().unwrap();

    // One was given back and waits for long; one is claimed under the order.
    let later = app
        .publish(&Paid { order: 1 })
        .after(Duration::from_secs(3600));
    let later = later.await.unwrap();
    let ready = app.publish(&Paid { order: 2 }).await.unwrap();
    for id in [&later.id, &ready.id] {
        assert!(cancellations.ask(&queue, id, &order).await.unwrap());
    }

    let handle = app.consumer().spawn();
    let began = tokio::time::Instant::now();
    until("both are dead", async || {
        dead(&app, &queue).await.len() == 2
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(runs.begun(), Vec::<i64>::new());
    let orders = cancellations.watch(&queue).await.unwrap();
    until("the orders are forgotten", async || {
        orders.borrow().is_empty()
    })
    .await;
    handle.stop();
    handle.await.unwrap();
}

/// The others of its batch are handled: what the handler did for them counts.
#[tokio::test(start_paused = true)]
async fn a_batch_goes_on_for_its_other_events() {
    let is_begun = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&is_begun);
    let book = Handler::on_batch("book", move |batch: Batch<Paid>| {
        begun.store(true, Ordering::SeqCst);
        async move {
            let contexts = batch.iter().map(|one| one.context.cancellation());
            let contexts: Vec<_> = contexts.collect();
            contexts[0].cancelled().await;
            assert!(!contexts[1].is_cancelled());
        }
    });
    let book = book.batch_size(3).batch_wait(Duration::from_secs(1));
    let app = TestApp::new(|app| app.register(book)).unwrap();
    let queue = QueueName::default();
    let mut ids = Vec::new();
    for order in 1..=3 {
        ids.push(app.publish(&Paid { order }).await.unwrap().id);
    }
    let handle = app.consumer().spawn();
    until("the batch runs", async || is_begun.load(Ordering::SeqCst)).await;

    let events = app.events(&queue).unwrap();
    events.cancel(&ids[0], Cancel::Dead).await.unwrap();
    until("all are settled", async || is_empty(&app, &queue).await).await;
    let letters = dead(&app, &queue).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].original_id.as_ref(), Some(&ids[0]));
    handle.stop();
    assert_eq!(handle.await.unwrap().counts.handled, 2);
}

/// One that does not end for its other events is cut off, and they are handled one by one.
#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_end_is_cut_off() {
    let is_begun = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&is_begun);
    let book = Handler::on_batch("book", move |batch: Batch<Paid>| {
        let is_together = batch.len() > 1;
        begun.store(
            is_together || begun.load(Ordering::SeqCst),
            Ordering::SeqCst,
        );
        async move {
            if is_together {
                std::future::pending::<()>().await;
            }
        }
    });
    let book = book.batch_size(3).batch_wait(Duration::from_secs(1));
    let app = TestApp::new(|app| app.register(book)).unwrap();
    let queue = QueueName::default();
    let mut ids = Vec::new();
    for order in 1..=3 {
        ids.push(app.publish(&Paid { order }).await.unwrap().id);
    }
    let handle = app.consumer().spawn();
    until("the batch runs", async || is_begun.load(Ordering::SeqCst)).await;

    let events = app.events(&queue).unwrap();
    let asked = tokio::time::Instant::now();
    events.cancel(&ids[1], Cancel::Dead).await.unwrap();
    until("all are settled", async || is_empty(&app, &queue).await).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{asked:?}");
    let letters = dead(&app, &queue).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].original_id.as_ref(), Some(&ids[1]));
    handle.stop();
    assert_eq!(handle.await.unwrap().counts.handled, 2);
}
