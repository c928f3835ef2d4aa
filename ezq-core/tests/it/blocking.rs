//! Handlers that keep their thread: the others of the consumer, its claims and its stops do not wait
//! for them while another thread is free.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use ezq_core::app::{App, AppBuilder};
use ezq_core::consumer::ConsumerHandle;
use ezq_core::event::{End, Event};
use ezq_core::handler::Handler;
use ezq_core::memory::MemoryEngine;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::fixtures::Step;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    n: u32,
}

impl Event for Note {
    const TYPE: &'static str = "note";
}

/// For how long a handler keeps its thread at most: a failed test ends all the same.
const LONG: Duration = Duration::from_secs(10);

/// A thread that a handler keeps, until the test lets it go.
#[derive(Clone)]
struct Thread(Arc<Mutex<mpsc::Receiver<()>>>);

impl Thread {
    fn new() -> (Self, mpsc::Sender<()>) {
        let (release, released) = mpsc::channel();
        (Self(Arc::new(Mutex::new(released))), release)
    }

    /// Whether it was let go in time.
    fn keep(&self) -> bool {
        self.0.lock().unwrap().recv_timeout(LONG).is_ok()
    }
}

fn app(handlers: Vec<Handler>) -> App {
    let builder = App::builder().without_discovered_handlers();
    handlers
        .into_iter()
        .fold(builder, AppBuilder::register)
        .build(MemoryEngine::new())
        .unwrap()
}

/// Where the others are seen to go on: a handler's name and what it was called for.
async fn next(calls: &mut UnboundedReceiver<u32>) -> u32 {
    tokio::time::timeout(LONG, calls.recv())
        .await
        .expect("nothing else was handled")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_keeps_its_thread_delays_no_other_event() {
    let (thread, release) = Thread::new();
    let (called, mut calls) = unbounded_channel();
    let (kept, mut keeps) = unbounded_channel();
    let handler = Handler::on("steps", move |step: Step| {
        if step.n == 1 {
            kept.send(thread.keep()).unwrap();
        }
        called.send(step.n).unwrap();
        async {}
    });
    let app = app(vec![handler]);
    app.publish(&Step { n: 1 }).await.unwrap();

    let consumer = app.consumer().concurrency(4).spawn();

    // The first is at work when these are published, so that they have yet to be claimed.
    for n in 2..=4 {
        app.publish(&Step { n }).await.unwrap();
        assert_eq!(next(&mut calls).await, n);
    }

    release.send(()).unwrap();
    assert_eq!(
        keeps.recv().await,
        Some(true),
        "others were handled only after it"
    );
    assert_eq!(next(&mut calls).await, 1);

    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_was_quick_before_delays_others_once_at_most() {
    let (thread, release) = Thread::new();
    let (called, mut calls) = unbounded_channel();
    let handler = Handler::on("steps", move |step: Step| {
        match step.n {
            // Slow by its own work, seen once.
            100 => std::thread::sleep(Duration::from_millis(2)),
            101 => assert!(thread.keep(), "others were handled only after it"),
            _ => {}
        }
        called.send(step.n).unwrap();
        async {}
    });

    let app = app(vec![handler]);
    let consumer = app.consumer().concurrency(4).spawn();
    for n in 0..=100 {
        app.publish(&Step { n }).await.unwrap();
        assert_eq!(next(&mut calls).await, n);
    }

    app.publish(&Step { n: 101 }).await.unwrap();
    for n in 200..203 {
        app.publish(&Step { n }).await.unwrap();
        assert_eq!(next(&mut calls).await, n);
    }

    release.send(()).unwrap();
    assert_eq!(next(&mut calls).await, 101);
    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quick_handler_beside_one_that_keeps_its_thread_delays_no_other_event() {
    let (thread, release) = Thread::new();
    let (called, mut calls) = unbounded_channel();
    let told = called.clone();
    let quick = Handler::on("quick", |_: Step| async {});

    let slow = Handler::on("slow", move |step: Step| {
        if step.n == 9 {
            assert!(thread.keep(), "others were handled only after it");
        }
        let told = told.clone();

        // What waits is never done at its first poll.
        async move {
            tokio::task::yield_now().await;
            told.send(step.n).unwrap();
        }
    });

    let notes = Handler::on("notes", move |note: Note| {
        called.send(note.n).unwrap();
        async {}
    });
    let app = app(vec![quick, slow, notes]);
    let consumer = app.consumer().concurrency(4).spawn();

    for n in 0..9 {
        app.publish(&Step { n }).await.unwrap();
        assert_eq!(next(&mut calls).await, n);
    }

    app.publish(&Step { n: 9 }).await.unwrap();
    app.publish(&Note { n: 100 }).await.unwrap();
    assert_eq!(next(&mut calls).await, 100);

    release.send(()).unwrap();
    assert_eq!(next(&mut calls).await, 9);
    consumer.stop();
    consumer.await.unwrap();
}

/// A consumer whose handler keeps its thread is stopped within a time.
async fn ends_within(limit: Duration, stop: impl AsyncFnOnce(ConsumerHandle)) {
    let (thread, release) = Thread::new();
    let (began, mut begins) = unbounded_channel();
    let handler = Handler::on("steps", move |step: Step| {
        began.send(step.n).unwrap();
        thread.keep();
        async {}
    });
    let app = app(vec![handler]);
    app.publish(&Step { n: 1 }).await.unwrap();

    let consumer = app.consumer().concurrency(4).spawn();
    next(&mut begins).await;

    let asked = Instant::now();
    stop(consumer).await;
    let took = asked.elapsed();
    release.send(()).unwrap();
    assert!(took < limit, "it was heard only after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_is_heard_while_a_handler_keeps_its_thread() {
    ends_within(LONG / 2, async |consumer| {
        consumer.interrupt();
        consumer.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_interrupt_is_heard_while_a_control_events_handler_keeps_its_thread() {
    let (thread, release) = Thread::new();
    let (began, mut begins) = unbounded_channel();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let handler = Handler::on("last", move |_: End| {
        began.send(1).unwrap();
        counted.fetch_add(u32::from(thread.keep()), Ordering::SeqCst);
        async {}
    });
    let app = app(vec![handler]);
    app.publish(&End::default()).await.unwrap();

    let consumer = app.consumer().spawn();
    next(&mut begins).await;

    let asked = Instant::now();
    consumer.interrupt();
    consumer.await.unwrap();

    assert!(
        asked.elapsed() < LONG / 2,
        "it was heard only after {:?}",
        asked.elapsed()
    );
    assert_eq!(count.load(Ordering::SeqCst), 0, "the handler had ended");
    release.send(()).unwrap();
}
