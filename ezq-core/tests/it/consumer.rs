use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::App;
use ezq_core::consumer::StopReason;
use ezq_core::event::End;
use ezq_core::handler::{Batch, Context, Handler};
use ezq_core::message::{QueueName, ReasonKind};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::faulty::Faulty;
use crate::fixtures::Step;

fn app(engine: &Faulty, handler: Handler) -> App {
    App::builder()
        .without_discovered_handlers()
        .register(handler)
        .build(engine.clone())
        .unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn publish(app: &App, count: u32) {
    let steps: Vec<Step> = (0..count).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn renews_its_lease_for_as_long_as_a_handler_runs() {
    let engine = Faulty::default();
    let (ran, mut runs) = mpsc::unbounded_channel();
    let handler = Handler::on("slow", move |_: Step, context: Context| {
        let ran = ran.clone();
        async move {
            tokio::time::sleep(secs(3600)).await;
            assert!(!context.is_lease_expired());
            ran.send(context.deliveries()).unwrap();
        }
    })
    .timeout(None);

    let app = app(&engine, handler);
    publish(&app, 1).await;

    let report = app
        .consumer()
        .lease(secs(2))
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!((report.counts.handled, report.counts.lost), (1, 0));
    assert_eq!(runs.try_recv().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn cancels_a_handler_whose_lease_is_lost_and_settles_nothing() {
    let engine = Faulty::default();
    let (cancelled, mut seen) = mpsc::unbounded_channel();

    let handler = Handler::on("slow", move |_: Step, context: Context| {
        let cancelled = cancelled.clone();
        async move {
            let token = context.cancellation();
            tokio::spawn(async move {
                token.cancelled().await;
                cancelled.send(()).unwrap();
            });
            std::future::pending::<()>().await;
        }
    });

    let app = app(&engine, handler);
    publish(&app, 1).await;
    engine.faults.lose.store(true, Ordering::SeqCst);

    let consumer = app.consumer().spawn();
    seen.recv().await.unwrap();
    consumer.stop();

    let report = consumer.await.unwrap();
    assert_eq!(report.counts.lost, 1);
    assert_eq!(
        report.counts.handled + report.counts.cancelled + report.counts.retried,
        0
    );
    assert!(engine.faults.batches.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn settles_again_after_a_passing_failure_and_handles_once() {
    let engine = Faulty::default();
    let (ran, mut runs) = mpsc::unbounded_channel();
    let handler = Handler::on("count", move |step: Step| {
        ran.send(step.n).unwrap();
        async {}
    });
    let app = app(&engine, handler);
    publish(&app, 3).await;

    let faults = [
        ErrorKind::Connection,
        ErrorKind::Transient,
        ErrorKind::Connection,
    ];
    engine.faults.settle.lock().unwrap().extend(faults);
    engine.faults.lease.lock().unwrap().extend(faults);

    let report = app.consumer().until_idle().run().await.unwrap();
    assert_eq!(report.counts.handled, 3);

    let mut handled: Vec<u32> = std::iter::from_fn(|| runs.try_recv().ok()).collect();
    handled.sort_unstable();
    assert_eq!(handled, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn holds_at_most_twice_its_concurrency_whatever_the_backlog() {
    let engine = Faulty::default();
    let gate = Arc::new(Semaphore::new(0));
    let (ran, mut runs) = mpsc::unbounded_channel();

    let handler = {
        let gate = Arc::clone(&gate);
        Handler::on("gated", move |_: Step| {
            let gate = Arc::clone(&gate);
            let ran = ran.clone();
            async move {
                ran.send(()).unwrap();
                gate.acquire().await.unwrap().forget();
            }
        })
        .timeout(None)
    };

    let app = app(&engine, handler);
    publish(&app, 1000).await;

    let consumer = app.consumer().concurrency(4).until_idle().spawn();
    for _ in 0..4 {
        runs.recv().await.unwrap();
    }

    tokio::time::sleep(secs(60)).await;
    assert!(runs.try_recv().is_err(), "a fifth handler started");
    assert_eq!(engine.faults.most_held.load(Ordering::SeqCst), 8);

    gate.add_permits(1000);
    assert_eq!(consumer.await.unwrap().counts.handled, 1000);
}

#[tokio::test(start_paused = true)]
async fn holds_nothing_for_the_batches_of_another_queue() {
    let engine = Faulty::default();
    let handler = Handler::on("stuck", |_: Step| std::future::pending::<()>()).timeout(None);
    let elsewhere = Handler::on_batch("elsewhere", |_: Batch<Step>| async {});
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler.queue("here"))
        .register(elsewhere.batch_size(1000).queue("elsewhere"))
        .configure(|config| config.queue = QueueName::new("here").unwrap())
        .build(engine.clone())
        .unwrap();
    publish(&app, 2000).await;

    let consumer = app.consumer().concurrency(4).spawn();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(engine.faults.most_held.load(Ordering::SeqCst), 8);

    consumer.interrupt();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn gives_back_what_it_fetched_ahead_when_its_handlers_slow_down() {
    const QUICK: u32 = 3000;
    const SLOW: u32 = 1000;

    let engine = Faulty::default();
    let handler = Handler::on("slower", |step: Step| async move {
        if step.n >= QUICK {
            std::future::pending::<()>().await;
        }
    });
    let app = app(&engine, handler.timeout(None));
    publish(&app, QUICK + SLOW).await;

    let consumer = app.consumer().concurrency(4).spawn();
    tokio::time::sleep(secs(60)).await;
    assert!(
        engine.faults.most_held.load(Ordering::SeqCst) > 100,
        "it fetched far ahead"
    );
    assert!(consumer.counts().returned > 0);

    let quick = self::app(&engine, Handler::on("quick", |_: Step| async {}));
    let others = quick
        .consumer()
        .until_idle()
        .run()
        .await
        .unwrap()
        .counts
        .handled;
    assert_eq!(u64::from(SLOW) - others, 4 + 2 * 4, "four run, eight wait");

    consumer.interrupt();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn handlers_that_wait_begin_in_tasks_of_their_own() {
    let engine = Faulty::default();
    let threads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&threads);
    let handler = Handler::on("waits", move |_: Step| {
        seen.lock().unwrap().push(tokio::task::try_id());
        tokio::time::sleep(Duration::from_millis(1))
    });
    let app = app(&engine, handler);
    publish(&app, 100).await;

    let report = app
        .consumer()
        .concurrency(1)
        .until_idle()
        .run()
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 100);

    let tasks: Vec<_> = threads.lock().unwrap().clone();
    let own = tasks.iter().filter(|id| **id != tasks[0]).count();
    assert!(own > 90, "{own} of 100 began in a task of their own");
}

#[tokio::test(start_paused = true)]
async fn goes_on_once_the_settlements_it_waited_for_are_done() {
    let engine = Faulty::default();
    engine.faults.slow.store(200, Ordering::SeqCst);
    let app = app(&engine, Handler::on("quick", |_: Step| async {}));
    publish(&app, 5000).await;

    let run = app.consumer().concurrency(16).until_idle().run();
    let report = tokio::time::timeout(secs(60), run)
        .await
        .expect("it goes on")
        .unwrap();
    assert_eq!(report.counts.handled, 5000);
    // The largest window, and what waits to be settled or is just being settled.
    assert!(engine.faults.most_held.load(Ordering::SeqCst) <= 1024 + 4 * 100 + 400);
}

#[tokio::test(start_paused = true)]
async fn an_end_behind_any_number_of_events_is_not_waited_for() {
    for count in 0..130 {
        let engine = Faulty::default();
        let handler = Handler::on("steps", |_: Step| {
            tokio::time::sleep(Duration::from_millis(10))
        });
        let app = app(&engine, handler);
        publish(&app, count).await;
        app.publish(&End::default()).await.unwrap();

        let began = Instant::now();
        let report = app.consumer().concurrency(8).run().await.unwrap();
        assert_eq!(
            (report.counts.handled, report.reason),
            (u64::from(count), StopReason::End)
        );

        let most = Duration::from_millis(10 * u64::from(count.div_ceil(8)) + 100);
        assert!(
            began.elapsed() < most,
            "{count} events took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn flushes_a_settlement_by_its_age_although_others_keep_coming() {
    let engine = Faulty::default();
    let app = app(&engine, Handler::on("quick", |_: Step| async {}));
    let consumer = app.consumer().spawn();
    let begun = Instant::now();

    // One event each millisecond: there is never a quiet period of 5 ms.
    for n in 0..100 {
        app.publish(&Step { n }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let batches = engine.faults.batches.lock().unwrap().clone();
    assert!(
        batches[0].0 - begun <= Duration::from_millis(8),
        "{:?}",
        batches[0].0 - begun
    );

    let gaps = batches.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(gaps.max().unwrap() <= Duration::from_millis(8));
    consumer.stop();
    assert_eq!(consumer.await.unwrap().counts.handled, 100);
}

#[tokio::test(start_paused = true)]
async fn fills_a_batch_of_settlements_without_waiting_for_its_age() {
    let engine = Faulty::default();
    let handler = Handler::on("quick", |_: Step| async {});
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .configure(|config| {
            config.settle_batch = 10;
            config.settle_max_age = secs(3600);
        })
        .build(engine.clone())
        .unwrap();

    publish(&app, 40).await;
    let begun = Instant::now();
    let consumer = app.consumer().concurrency(20).spawn();

    // Of fewer than a batch the last may wait for their age.
    while consumer.counts().handled <= 30 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() < secs(10));

    let sizes: Vec<usize> = engine
        .faults
        .batches
        .lock()
        .unwrap()
        .iter()
        .map(|(_, size)| *size)
        .collect();
    assert!(
        sizes.iter().all(|size| (10..=40).contains(size)),
        "{sizes:?}"
    );

    consumer.stop();
    assert_eq!(consumer.await.unwrap().counts.handled, 40);
    assert!(
        begun.elapsed() < secs(10),
        "the rest is settled at the stop, not at its age"
    );
}

#[tokio::test(start_paused = true)]
async fn creates_a_dropped_queue_again_and_goes_on() {
    let engine = Faulty::default();
    let app = app(&engine, Handler::on("quick", |_: Step| async {}));
    let consumer = app.consumer().spawn();
    publish(&app, 1).await;

    while consumer.counts().handled < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(engine.memory.remove_queue(&QueueName::default()));

    publish(&app, 1).await;
    while consumer.counts().handled < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    consumer.stop();
    consumer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_store_refuses_ends_in_the_dead_letters() {
    let engine = Faulty::default();
    let app = app(&engine, Handler::on("quick", |_: Step| async {}));
    publish(&app, 2).await;
    engine.faults.refuse.store(true, Ordering::SeqCst);

    let report = app.consumer().until_idle().run().await.unwrap();
    assert_eq!((report.counts.handled, report.counts.dead_lettered), (0, 2));

    let queue = QueueName::default();
    let letters = app
        .dead_letters(&queue)
        .unwrap()
        .list(&DeadLetterFilter::all(), 10)
        .await
        .unwrap();

    let reason = letters[0].reason.as_ref().unwrap();
    assert!(
        reason.error.contains("refused by the test"),
        "{}",
        reason.error
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_workers_ends_in_the_dead_letters() {
    let engine = Faulty::default();
    let handler = Handler::on("stuck", |_: Step| std::future::pending::<()>()).timeout(None);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler)
        .configure(|config| config.max_deliveries = 3)
        .build(engine.clone())
        .unwrap();
    publish(&app, 1).await;

    for _ in 0..3 {
        // A consumer whose future is dropped leaves its lease behind, as a killed process does.
        let run = app.consumer().lease(secs(1)).run();
        assert!(
            tokio::time::timeout(Duration::from_millis(500), run)
                .await
                .is_err()
        );
        tokio::time::sleep(secs(1)).await;
    }

    let report = app.consumer().until_idle().run().await.unwrap();
    assert_eq!(report.counts.dead_lettered, 1);

    let queue = QueueName::default();
    let letters = app
        .dead_letters(&queue)
        .unwrap()
        .list(&DeadLetterFilter::all(), 10)
        .await
        .unwrap();
    assert_eq!(
        letters[0].reason.as_ref().unwrap().kind,
        ReasonKind::MaxDeliveries
    );
}

/// Consumers that end as killed processes do, until each of `count` messages was delivered so often.
async fn crash(engine: &Faulty, count: u32, deliveries: u32) {
    let handler = Handler::on("stuck", |_: Step| std::future::pending::<()>()).timeout(None);
    let app = app(engine, handler);
    publish(&app, count).await;

    for _ in 0..deliveries {
        let run = app.consumer().concurrency(8).lease(secs(1)).run();
        assert!(
            tokio::time::timeout(Duration::from_millis(500), run)
                .await
                .is_err()
        );
        tokio::time::sleep(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_delivered_often_and_never_settled_runs_one_at_a_time() {
    for (crashes, at_once) in [(1, 6), (3, 1)] {
        let engine = Faulty::default();
        crash(&engine, 6, crashes).await;
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = Arc::clone(&most);

        let handler = Handler::on("counts", move |_: Step| {
            let running = Arc::clone(&running);
            let most = Arc::clone(&most);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(secs(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
            }
        });

        let consumer = app(&engine, handler).consumer().concurrency(8);
        let report = consumer.until_idle().run().await.unwrap();
        assert_eq!(report.counts.handled, 6);
        assert_eq!(
            seen.load(Ordering::SeqCst),
            at_once,
            "after {crashes} crashes"
        );
    }
}
