//! A handler's concurrency limit, and the places of a consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::app::{App, AppBuilder};
use ezq_core::handler::{Batch, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;

use super::{Lone, within};
use crate::fixtures::Step;

#[tokio::test(start_paused = true)]
async fn a_handler_runs_no_more_often_at_once_than_it_says_across_consumers() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));

    let handler = {
        let running = Arc::clone(&running);
        let most = Arc::clone(&most);

        Handler::on("careful", move |_: Step| {
            let running = Arc::clone(&running);
            let most = Arc::clone(&most);
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(20)).await;
                running.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .concurrency(2)
    };

    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = app.build(MemoryEngine::new()).unwrap();
    let steps: Vec<Step> = (0..12).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();

    // Each waits longer for its turn than it may run.
    let consumers = [0, 1].map(|_| app.consumer().concurrency(4).until_idle().spawn());
    let mut handled = 0;
    for consumer in consumers {
        handled += consumer.await.unwrap().counts.handled;
    }
    assert_eq!((handled, most.load(Ordering::SeqCst)), (12, 2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_goes_back_when_it_is_interrupted() {
    let handler = Handler::on("stuck", |_: Step| std::future::pending::<()>()).concurrency(1);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    let app = app.build(MemoryEngine::new()).unwrap();
    app.publish_all(&[Step { n: 0 }, Step { n: 1 }])
        .await
        .unwrap();

    let consumer = app.consumer().spawn();
    tokio::time::sleep(Duration::from_millis(50)).await;
    consumer.interrupt();
    assert_eq!(consumer.await.unwrap().counts.cancelled, 2);
    assert_eq!(app.stats(&QueueName::default()).await.unwrap().ready, 2);
}

#[test]
fn a_limit_of_nothing_is_refused() {
    let handler = Handler::on("none", |_: Step| async {}).concurrency(0);
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    assert_eq!(
        app.build(MemoryEngine::new()).unwrap_err().kind(),
        ErrorKind::Configuration
    );
}

/// Counts how many run at once.
#[derive(Clone, Default)]
struct AtOnce(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl AtOnce {
    /// Runs for a while.
    async fn run(self) {
        let Self(running, most) = self;
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        running.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }
}

/// As many batch handlers of one type, and handlers beside them.
fn app_with_batches(count: usize, wait: Duration, others: Vec<Handler>) -> App {
    let names = (0..count).map(|n| format!("batches-{n}"));
    let batches = names.map(|name| {
        let handler = Handler::on_batch(&name, |_: Batch<Step>| async {});
        handler.batch_size(50).batch_wait(wait)
    });

    let builder = App::builder().without_discovered_handlers();
    let handlers = batches.chain(others);
    handlers
        .fold(builder, AppBuilder::register)
        .build(MemoryEngine::new())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_keeps_its_place_while_one_handler_runs_and_others_wait_for_batches() {
    for batches in [1, 2] {
        let slow = AtOnce::default();
        let runs = slow.clone();
        let handler = Handler::on("slow", move |_: Step| runs.clone().run());
        let app = app_with_batches(batches, Duration::from_secs(60), vec![handler]);
        app.publish_all(&(0..12).map(|n| Step { n }).collect::<Vec<_>>())
            .await
            .unwrap();

        let report = app.consumer().concurrency(3).until_idle().run();
        let report = within(report).await.unwrap();
        assert_eq!((report.counts.handled, slow.most()), (12, 3), "{batches}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_for_two_batches_makes_room_for_one_other() {
    for batches in [1, 2] {
        let slow = AtOnce::default();
        let runs = slow.clone();
        let handler = Handler::on("slow", move |_: Lone| runs.clone().run());
        let app = app_with_batches(batches, Duration::from_secs(600), vec![handler]);
        app.publish_all(&(0..6).map(|n| Step { n }).collect::<Vec<_>>())
            .await
            .unwrap();
        app.publish_all(&(0..12).map(|_| Lone {}).collect::<Vec<_>>())
            .await
            .unwrap();

        let report = app.consumer().concurrency(3).until_idle().run();
        let report = tokio::time::timeout(Duration::from_secs(3600), report)
            .await
            .unwrap();
        assert_eq!(
            (report.unwrap().counts.handled, slow.most()),
            (18, 3),
            "{batches}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_gathers_more_than_the_concurrency_beside_handlers_that_are_done() {
    let (given, mut sizes) = tokio::sync::mpsc::unbounded_channel();
    let gathers = Handler::on_batch("gathers", move |batch: Batch<Step>| {
        given.send(batch.len()).unwrap();
        async {}
    });

    let soon = Handler::on("soon", |_: Step| tokio::time::sleep(Duration::from_secs(1)));
    let others = vec![
        gathers.batch_size(12).batch_wait(Duration::from_secs(500)),
        soon,
    ];
    let app = app_with_batches(0, Duration::ZERO, others);
    app.publish_all(&(0..12).map(|n| Step { n }).collect::<Vec<_>>())
        .await
        .unwrap();

    let report = within(app.consumer().concurrency(3).until_idle().run())
        .await
        .unwrap();
    assert_eq!((report.counts.handled, sizes.recv().await), (12, Some(12)));
    assert!(report.elapsed < Duration::from_secs(10), "{report}");
}
