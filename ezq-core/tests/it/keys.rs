//! Events of one ordering key, one after another, whatever becomes of each.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::consumer::StopReason;
use ezq_core::engine::{Blocker, Capabilities, Engine};
use ezq_core::event::{End, Event};
use ezq_core::handler::{Backoff, Context, Handler, HandlerError};
use ezq_core::message::QueueName;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::faulty::Faulty;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    key: u32,
    n: u32,
}

impl Event for Step {
    const TYPE: &'static str = "step";

    fn key(&self) -> Option<String> {
        Some(self.key.to_string())
    }
}

/// What was begun and what was done, in order; and that no two of one key were at work at once.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    running: HashSet<u32>,
    most: usize,
    begun: Vec<(u32, u32)>,
    done: Vec<(u32, u32)>,
}

struct Running(Log, u32);

impl Log {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, step: &Step) -> Running {
        let mut entries = self.entries();
        assert!(
            entries.running.insert(step.key),
            "two of key {} at once",
            step.key
        );

        entries.most = entries.most.max(entries.running.len());
        entries.begun.push((step.key, step.n));
        Running(self.clone(), step.key)
    }

    fn done(&self, step: &Step) {
        self.entries().done.push((step.key, step.n));
    }

    fn of(&self, key: u32) -> Vec<u32> {
        let entries = self.entries();
        entries
            .done
            .iter()
            .filter(|(of, _)| *of == key)
            .map(|(_, n)| *n)
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.entries().running.remove(&self.1);
    }
}

fn app(engine: &Faulty, handler: Handler) -> App {
    let handler = handler.backoff(Backoff::constant(secs(10)));
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone())
        .unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn publish(app: &App, steps: &[Step]) {
    app.publish_all(steps).await.unwrap();
}

fn steps(key: u32, numbers: std::ops::Range<u32>) -> Vec<Step> {
    numbers.map(|n| Step { key, n }).collect()
}

/// A handler that takes a second, and fails as it is told.
fn handler(log: &Log, fails: impl Fn(&Step, u32) -> bool + Send + Sync + 'static) -> Handler {
    let log = log.clone();
    let fails = Arc::new(fails);

    Handler::on("work", move |step: Step, context: Context| {
        let log = log.clone();
        let fails = Arc::clone(&fails);

        async move {
            let _running = log.begin(&step);
            tokio::time::sleep(secs(1)).await;
            if fails(&step, context.attempt()) {
                return Err(HandlerError::retry("as told"));
            }
            log.done(&step);
            Ok(())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_run_one_after_another_and_keys_beside_each_other() {
    let engine = Faulty::default();
    let log = Log::default();
    let app = app(&engine, handler(&log, |_, _| false));
    let all: Vec<Step> = (0..40)
        .flat_map(|n| (0..5).map(move |key| Step { key, n }))
        .collect();
    publish(&app, &all).await;

    let report = app
        .consumer()
        .concurrency(8)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (200, 0),
        "{report}"
    );
    for key in 0..5 {
        assert_eq!(log.of(key), (0..40).collect::<Vec<_>>());
    }
    assert_eq!(log.entries().most, 5);
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_up_its_own_key_and_no_other() {
    let engine = Faulty::default();
    let log = Log::default();
    let fails = |step: &Step, attempt| *step == Step { key: 1, n: 3 } && attempt < 3;
    let app = app(&engine, handler(&log, fails));
    publish(&app, &[steps(1, 0..20), steps(2, 0..20)].concat()).await;

    let consumer = app.consumer().concurrency(16).spawn();
    tokio::time::sleep(secs(8)).await;
    assert_eq!((log.of(1), log.of(2).len()), (vec![0, 1, 2], 7));

    let blocked = app.blocked_keys(&QueueName::default(), 10).await.unwrap();
    let one = blocked.iter().find(|blocked| blocked.key == "1").unwrap();
    assert_eq!((one.blocker, one.waiting), (Blocker::Retry, 16));

    tokio::time::sleep(secs(60)).await;
    consumer.stop();

    let report = consumer.await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.retried),
        (40, 2),
        "{report}"
    );
    assert_eq!(log.of(1), (0..20).collect::<Vec<_>>());

    // What stood behind it was given back, not lost, and counts as no crash.
    assert!(
        report.counts.returned > 0 && report.counts.lost == 0,
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_lets_the_next_of_its_key_start() {
    let engine = Faulty::default();
    let log = Log::default();
    let inner = log.clone();

    let handler = Handler::on("work", move |step: Step| {
        let log = inner.clone();
        async move {
            let _running = log.begin(&step);
            if step.n == 1 {
                return Err(HandlerError::fatal("never"));
            }
            log.done(&step);
            Ok(())
        }
    });

    let app = app(&engine, handler);
    publish(&app, &steps(1, 0..10)).await;

    let report = app
        .consumer()
        .concurrency(32)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.dead_lettered),
        (9, 1),
        "{report}"
    );
    assert_eq!(report.counts.returned, 0, "{report}");
    assert_eq!(log.of(1), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_returned_event_starts_only_once_that_is_stored() {
    #[derive(Serialize, Deserialize)]
    struct Reply;
    impl Event for Reply {
        const TYPE: &'static str = "reply";
        const QUEUE: Option<&'static str> = Some("replies");
    }

    let engine = Faulty::default();
    let log = Log::default();
    let inner = log.clone();
    let handler = Handler::on("work", move |step: Step| {
        let log = inner.clone();
        async move {
            let _running = log.begin(&step);
            log.done(&step);
            Reply
        }
    });

    let app = app(&engine, handler);
    publish(&app, &steps(1, 0..4)).await;
    engine
        .faults
        .settle
        .lock()
        .unwrap()
        .extend(vec![ErrorKind::Connection; 5]);

    let consumer = app.consumer().concurrency(16).spawn();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(log.of(1), [0]);

    tokio::time::sleep(secs(10)).await;
    consumer.stop();
    assert_eq!(consumer.await.unwrap().counts.handled, 4);
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_event_whose_lease_was_lost_is_cancelled() {
    let engine = Faulty::default();
    let log = Log::default();
    let app = app(&engine, handler(&log, |_, _| false));
    publish(&app, &steps(1, 0..4)).await;
    engine.faults.slow.store(500, Ordering::SeqCst);

    let consumer = app.consumer().concurrency(16).spawn();
    // The first is done, its acknowledgement is on its way, and the second has begun.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(log.entries().begun, [(1, 0), (1, 1)]);

    engine.purge(&QueueName::default()).await.unwrap();
    tokio::time::sleep(secs(5)).await;
    consumer.stop();

    let report = consumer.await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (0, 4),
        "{report}"
    );
    assert_eq!(
        log.of(1),
        [0],
        "the second was cut off, the others never began"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_keep_others_from_being_fetched() {
    let engine = Faulty::default();
    let log = Log::default();
    let app = app(&engine, handler(&log, |_, _| false));
    publish(&app, &steps(0, 0..200)).await;
    let others: Vec<Step> = (1..=100).map(|key| Step { key, n: 0 }).collect();
    publish(&app, &others).await;

    let consumer = app.consumer().concurrency(8).spawn();
    tokio::time::sleep(secs(20)).await;

    let hot = log.of(0).len();
    let others = log.entries().done.len() - hot;
    // Seven of eight are left to the others, which stand behind the hot key.
    assert!(
        others == 100 && hot >= 8,
        "{others} of the others, {hot} of the hot key"
    );

    consumer.interrupt();

    let report = consumer.await.unwrap();
    assert!(
        engine.faults.most_held.load(Ordering::SeqCst) <= 4 * 8,
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_drains_keys_that_stand_before_it_and_nothing_behind() {
    let engine = Faulty::default();
    let log = Log::default();
    let app = app(&engine, handler(&log, |_, _| false));
    publish(&app, &steps(1, 0..30)).await;
    app.publish(&End::default()).await.unwrap();
    publish(&app, &steps(1, 30..40)).await;

    let report = app.consumer().concurrency(32).run().await.unwrap();
    assert_eq!(
        (report.reason, report.counts.handled),
        (StopReason::End, 30),
        "{report}"
    );
    assert_eq!(log.of(1), (0..30).collect::<Vec<_>>());

    let stats = app.stats(&QueueName::default()).await.unwrap();
    assert_eq!((stats.ready, stats.in_progress), (10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_waits_in_a_lane() {
    for interrupt in [false, true] {
        let engine = Faulty::default();
        let log = Log::default();
        let app = app(&engine, handler(&log, |_, _| false));
        publish(&app, &steps(1, 0..10)).await;

        let consumer = app.consumer().concurrency(20).spawn();
        tokio::time::sleep(Duration::from_millis(500)).await;

        if interrupt {
            consumer.interrupt()
        } else {
            consumer.stop()
        }

        let counts = consumer.await.unwrap().counts;
        let done = u64::from(!interrupt);
        assert_eq!(
            (counts.handled, counts.cancelled, counts.returned),
            (done, 1 - done, 9)
        );

        let stats = app.stats(&QueueName::default()).await.unwrap();
        assert_eq!((stats.ready, stats.in_progress), (10 - done, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn two_consumers_never_share_a_key() {
    let engine = Faulty::default();
    let log = Log::default();
    let fails = |step: &Step, attempt: u32| (step.n * 7 + step.key + attempt).is_multiple_of(5);
    let app = app(&engine, handler(&log, fails).max_attempts(50));
    let all: Vec<Step> = (0..25)
        .flat_map(|n| (0..6).map(move |key| Step { key, n }))
        .collect();
    publish(&app, &all).await;

    let consumers = [(); 3].map(|()| app.consumer().concurrency(12).spawn());
    let enough = Arc::new(Semaphore::new(0));
    for _ in 0..600 {
        tokio::time::sleep(secs(2)).await;
        if log.entries().done.len() == all.len() {
            enough.add_permits(1);
            break;
        }
    }

    assert_eq!(
        enough.available_permits(),
        1,
        "{:?}",
        log.entries().done.len()
    );

    for consumer in consumers {
        consumer.stop();
        assert_eq!(consumer.await.unwrap().counts.lost, 0);
    }

    for key in 0..6 {
        assert_eq!(log.of(key), (0..25).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn publishing_with_a_key_needs_an_engine_that_orders_by_it() {
    let engine = Faulty {
        capabilities: Some(Capabilities::new("keyless")),
        ..Faulty::default()
    };
    let app = app(&engine, handler(&Log::default(), |_, _| false));
    let error = app.publish(&Step { key: 1, n: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn whatever_stands_in_place_of_a_key_is_one_but_null() {
    use ezq_core::message::headers::{Headers, KEY};

    let mut headers = Headers::new();
    assert_eq!(headers.key(), None);
    for (value, key) in [
        ("a".into(), Some("a")),
        (5.into(), Some("5")),
        (().into(), None),
    ] {
        let value: serde_json::Value = value;
        headers.insert(KEY, value);
        assert_eq!(headers.key().as_deref(), key);
    }
}
