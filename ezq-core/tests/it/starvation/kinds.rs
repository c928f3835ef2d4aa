//! Every kind of handler with a limit: quick ones, batches, several of them, ordering keys.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::event::{End, Event};
use ezq_core::handler::{Batch, Context, Handler};
use serde::{Deserialize, Serialize};

use super::{
    BACKLOG, CONCURRENCY, Other, Seen, all_ran_once, app, numbers, other, publish_steps, slow,
    within,
};
use crate::fixtures::Step;

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_its_queue_to_itself_gives_nothing_back() {
    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen)]);
    publish_steps(&app, 300).await;

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        seen.let_go.add_permits(1);
    }
    app.publish(&End::default()).await.unwrap();

    let counts = within(consumer).await.unwrap().counts;
    assert_eq!((counts.handled, counts.returned), (300, 0));
    all_ran_once(&seen, 300);
}

#[tokio::test(start_paused = true)]
async fn a_quick_handler_with_a_limit_gives_nothing_back() {
    let quick = Handler::on("quick", |_: Step| {
        tokio::time::sleep(Duration::from_millis(5))
    });
    let seen = Arc::<Seen>::default();
    let app = app(vec![quick.concurrency(1), other(&seen)]);
    publish_steps(&app, BACKLOG).await;
    app.publish(&Other { n: 0 }).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).until_idle().run();
    let counts = within(consumer).await.unwrap().counts;
    assert_eq!(
        (counts.handled, counts.returned),
        (u64::from(BACKLOG) + 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_with_a_limit_keeps_no_other_from_being_handled() {
    let seen = Arc::<Seen>::default();
    let batches = {
        let seen = Arc::clone(&seen);
        Handler::on_batch("batches", move |batch: Batch<Step>| {
            let seen = Arc::clone(&seen);
            async move {
                for item in &batch {
                    let context = &item.context;
                    let deliveries = context.deliveries() - context.headers().returned();
                    seen.begun
                        .lock()
                        .unwrap()
                        .entry(item.event.n)
                        .or_default()
                        .push(deliveries);
                }
                seen.let_go.acquire().await.unwrap().forget();
            }
        })
    };

    let batches = batches.concurrency(1).batch_size(10).timeout(None);
    let app = app(vec![batches, other(&seen)]);
    publish_steps(&app, BACKLOG).await;
    app.publish(&Other { n: 0 }).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    seen.others(1).await;
    assert_eq!(seen.slow().len(), 10, "the first batch still runs");

    seen.let_go.add_permits(numbers(BACKLOG));
    app.publish(&End::default()).await.unwrap();

    let report = within(consumer).await.unwrap();
    assert_eq!(report.counts.handled, u64::from(BACKLOG) + 1);
    all_ran_once(&seen, BACKLOG);
}

#[tokio::test(start_paused = true)]
async fn several_handlers_with_limits_keep_each_other_from_nothing() {
    let seen = Arc::<Seen>::default();
    let quick = {
        let seen = Arc::clone(&seen);
        Handler::on("quick", move |_: Other| {
            let seen = Arc::clone(&seen);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                seen.others.add_permits(1);
            }
        })
    };

    let app = app(vec![slow(&seen), quick.concurrency(2)]);
    publish_steps(&app, BACKLOG).await;
    for n in 0..BACKLOG {
        app.publish(&Other { n }).await.unwrap();
    }

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    let since = tokio::time::Instant::now();
    seen.others(BACKLOG).await;
    assert_eq!(seen.slow().len(), 1, "the first still runs");
    assert!(
        since.elapsed() < Duration::from_secs(60),
        "{:?}",
        since.elapsed()
    );

    consumer.interrupt();
    within(consumer).await.unwrap();
}

/// An event with an ordering key, for one of two handlers.
#[derive(Debug, Serialize, Deserialize)]
struct Keyed {
    key: u32,
    n: u32,
}

impl Event for Keyed {
    const TYPE: &'static str = "keyed";

    fn key(&self) -> Option<String> {
        Some(self.key.to_string())
    }
}

/// Each key has a slow event, two others, a slow one and another: they end in this order, and keys
/// that have none that is slow wait for nobody.
#[tokio::test(start_paused = true)]
async fn ordering_keys_keep_their_order_behind_a_backlog() {
    const KEYS: u32 = 100;
    const FREE: u32 = 20;

    let seen = Arc::<Seen>::default();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let quick = {
        let seen = Arc::clone(&seen);
        let ended = Arc::clone(&ended);
        Handler::on("quick", move |event: Keyed| {
            let seen = Arc::clone(&seen);
            let ended = Arc::clone(&ended);
            async move {
                ended.lock().unwrap().push((event.key, event.n));
                if event.key >= KEYS {
                    seen.others.add_permits(1);
                }
            }
        })
    };

    let behind = {
        let seen = Arc::clone(&seen);
        let ended = Arc::clone(&ended);

        Handler::on("behind", move |step: Step, context: Context| {
            let seen = Arc::clone(&seen);
            let ended = Arc::clone(&ended);

            async move {
                seen.begun
                    .lock()
                    .unwrap()
                    .entry(step.n)
                    .or_default()
                    .push(context.deliveries());
                seen.let_go.acquire().await.unwrap().forget();
                ended.lock().unwrap().push((step.n / 10, step.n % 10));
            }
        })
    };

    let app = app(vec![behind.concurrency(1).timeout(None), quick]);
    for n in 0..5 {
        for key in 0..KEYS {
            match n {
                0 | 3 => {
                    let step = Step { n: key * 10 + n };
                    app.publish(&step).key(key.to_string()).await.unwrap();
                }
                n => drop(app.publish(&Keyed { key, n }).await.unwrap()),
            }
        }
    }

    for n in 0..10 {
        for key in KEYS..KEYS + FREE {
            app.publish(&Keyed { key, n }).await.unwrap();
        }
    }

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    seen.others(10 * FREE).await;
    assert_eq!(seen.slow().len(), 1, "the first still runs");

    seen.let_go.add_permits(numbers(2 * KEYS));
    app.publish(&End::default()).await.unwrap();

    let report = within(consumer).await.unwrap();
    assert_eq!(report.counts.handled, u64::from(5 * KEYS + 10 * FREE));

    let ended = ended.lock().unwrap().clone();
    for key in 0..KEYS + FREE {
        let order: Vec<u32> = ended
            .iter()
            .filter(|(of, _)| *of == key)
            .map(|(_, n)| *n)
            .collect();
        let all: Vec<u32> = (0..if key < KEYS { 5 } else { 10 }).collect();
        assert_eq!(order, all, "key {key}");
    }
}
