//! A handler that may run only so often at once, with a backlog ahead of the others' events: what
//! waits for it keeps nobody from being handled, and is neither lost nor handled out of turn.

mod kinds;
mod stops;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::config::Config;
use ezq_core::consumer::StopReason;
use ezq_core::event::{End, Event};
use ezq_core::handler::{AnyEvent, Context, Handler};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::fixtures::Step;

/// An event of another handler.
#[derive(Debug, Serialize, Deserialize)]
struct Other {
    n: u32,
}

impl Event for Other {
    const TYPE: &'static str = "other";
}

/// More than a consumer ever fetches ahead.
const BACKLOG: u32 = 2_000;

const CONCURRENCY: usize = 4;

/// What handlers did, and what lets them go on.
#[derive(Debug)]
struct Seen {
    begun: Mutex<BTreeMap<u32, Vec<u32>>>,
    others: Semaphore,
    /// How many runs of the slow handler may end.
    let_go: Semaphore,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            begun: Mutex::default(),
            others: Semaphore::new(0),
            let_go: Semaphore::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }
}

impl Seen {
    fn begins(&self) {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn ends(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// The numbers of the slow handler's runs, in their order by number, with how often each ran
    /// and at which deliveries that were not settled.
    fn slow(&self) -> BTreeMap<u32, Vec<u32>> {
        self.begun.lock().unwrap().clone()
    }

    async fn others(&self, count: u32) {
        let all = self.others.acquire_many(count);
        let all = tokio::time::timeout(Duration::from_secs(600), all).await;
        all.expect("the other handler's events wait")
            .unwrap()
            .forget();
    }
}

/// Each run of it ends when it is let go.
fn slow(seen: &Arc<Seen>) -> Handler {
    let seen = Arc::clone(seen);
    let handler = Handler::on("slow", move |step: Step, context: Context| {
        let seen = Arc::clone(&seen);
        async move {
            seen.begins();
            let deliveries = context.deliveries() - context.headers().returned();
            seen.begun
                .lock()
                .unwrap()
                .entry(step.n)
                .or_default()
                .push(deliveries);
            seen.let_go.acquire().await.unwrap().forget();
            seen.ends();
        }
    });
    handler.concurrency(1).timeout(None)
}

fn other(seen: &Arc<Seen>) -> Handler {
    let seen = Arc::clone(seen);
    Handler::on("other", move |_: Other| {
        let seen = Arc::clone(&seen);
        async move {
            seen.begins();
            tokio::task::yield_now().await;
            seen.ends();
            seen.others.add_permits(1);
        }
    })
}

fn build(handlers: Vec<Handler>, engine: MemoryEngine, set: impl FnOnce(&mut Config)) -> App {
    let builder = App::builder().without_discovered_handlers().configure(set);
    let builder = handlers
        .into_iter()
        .fold(builder, |builder, one| builder.register(one));
    builder.build(engine).unwrap()
}

fn app(handlers: Vec<Handler>) -> App {
    build(handlers, MemoryEngine::new(), |_| {})
}

fn numbers(count: u32) -> usize {
    usize::try_from(count).unwrap()
}

async fn publish_steps(app: &App, count: u32) {
    let steps: Vec<Step> = (0..count).map(|n| Step { n }).collect();
    app.publish_all(&steps).await.unwrap();
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), what)
        .await
        .expect("it is stuck")
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_a_limited_handler_keeps_no_other_from_being_handled() {
    let seen = Arc::<Seen>::default();
    let app = app(vec![slow(&seen), other(&seen)]);
    publish_steps(&app, BACKLOG).await;
    app.publish(&Other { n: 0 }).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    seen.others(1).await;
    assert_eq!(seen.slow().len(), 1, "the first still runs");

    // What is published later comes as well, and no later for what was passed over.
    for n in 1..20 {
        let since = tokio::time::Instant::now();
        app.publish(&Other { n }).await.unwrap();
        seen.others(1).await;
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "{:?}",
            since.elapsed()
        );
    }

    assert_eq!(seen.slow().len(), 1, "the first still runs");

    // Nothing was lost, doubled or counted.
    app.publish(&End::default()).await.unwrap();
    seen.let_go.add_permits(numbers(BACKLOG));

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.reason, report.counts.handled),
        (StopReason::End, u64::from(BACKLOG) + 20)
    );

    let slow = seen.slow();
    assert_eq!(slow.len(), numbers(BACKLOG));
    assert!(
        slow.values().all(|deliveries| *deliveries == [1]),
        "{slow:?}"
    );
    assert_eq!(
        report.counts.lost + report.counts.retried + report.counts.dead_lettered,
        0
    );
}

/// Each ran once, at its first attempt, and no delivery of it was left unsettled.
fn all_ran_once(seen: &Seen, count: u32) {
    let slow = seen.slow();
    assert_eq!(
        slow.keys().copied().collect::<Vec<_>>(),
        (0..count).collect::<Vec<_>>()
    );

    let odd: Vec<_> = slow
        .iter()
        .filter(|(_, deliveries)| **deliveries != [1])
        .collect();
    assert!(
        odd.is_empty(),
        "number, unsettled deliveries at each run: {odd:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_keeps_its_lease_and_is_bounded() {
    let seen = Arc::<Seen>::default();
    let lease = Duration::from_secs(2);
    let app = build(
        vec![slow(&seen), other(&seen)],
        MemoryEngine::new(),
        |config| {
            config.lease = lease;
        },
    );
    publish_steps(&app, BACKLOG).await;

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    let mut most = 0;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(app.stats(&QueueName::default()).await.unwrap().in_progress);
    }

    // Twice the concurrency waits, and as much is fetched at once; what is given back is settled
    // in batches.
    let settling = u64::try_from(4 * app.config().settle_batch).unwrap();
    assert!(most <= 4 * 4 + settling, "{most} are leased");

    seen.let_go.add_permits(numbers(BACKLOG));
    app.publish(&End::default()).await.unwrap();

    let report = within(consumer).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (u64::from(BACKLOG), 0)
    );
    all_ran_once(&seen, BACKLOG);
}

#[tokio::test(start_paused = true)]
async fn the_other_handlers_of_an_event_do_not_wait_for_one_with_a_limit() {
    let seen = Arc::<Seen>::default();
    let beside = Arc::new(AtomicUsize::new(0));

    let both = {
        let seen = Arc::clone(&seen);
        let beside = Arc::clone(&beside);
        Handler::on("beside", move |_: Step| {
            let seen = Arc::clone(&seen);
            let beside = Arc::clone(&beside);
            async move {
                seen.begins();
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen.ends();
                beside.fetch_add(1, Ordering::SeqCst);
            }
        })
    };

    let limited = {
        let seen = Arc::clone(&seen);
        Handler::on("limited", move |_: Step| {
            let seen = Arc::clone(&seen);
            async move { seen.let_go.acquire().await.unwrap().forget() }
        })
    };

    let app = app(vec![
        limited.concurrency(1).timeout(None),
        both,
        other(&seen),
    ]);
    publish_steps(&app, 8).await;
    app.publish(&Other { n: 0 }).await.unwrap();

    let consumer = app.consumer().concurrency(CONCURRENCY).spawn();
    seen.others(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(beside.load(Ordering::SeqCst), 8);

    // One of them is done beside the handler that is at work.
    assert!(
        seen.most.load(Ordering::SeqCst) <= CONCURRENCY,
        "more than the consumer handles"
    );

    seen.let_go.add_permits(8);
    app.publish(&End::default()).await.unwrap();
    assert_eq!(within(consumer).await.unwrap().counts.handled, 9);
}

#[tokio::test(start_paused = true)]
async fn what_gets_its_turn_has_a_place_like_everything_else() {
    let seen = Arc::<Seen>::default();
    let running = |name: &str, pause: u64| {
        let seen = Arc::clone(&seen);
        Handler::on(name, move |_: AnyEvent| {
            let seen = Arc::clone(&seen);
            async move {
                seen.begins();
                tokio::time::sleep(Duration::from_millis(pause)).await;
                seen.ends();
            }
        })
    };

    let app = app(vec![
        running("slow", 30).pattern("step").concurrency(2),
        running("other", 7).pattern("other"),
    ]);
    for n in 0..200 {
        app.publish(&Step { n }).await.unwrap();
        app.publish(&Other { n }).await.unwrap();
    }

    let report = within(app.consumer().concurrency(3).until_idle().run())
        .await
        .unwrap();
    assert_eq!(
        (report.counts.handled, seen.most.load(Ordering::SeqCst)),
        (400, 3)
    );
}
