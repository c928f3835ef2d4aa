//! A handler that may run only so often at once, with a backlog ahead of another handler's events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ezq::consumer::{Report, StopReason};
use ezq::prelude::*;
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::kit::{Log, Numbered, app, held, numbered, queue, send_batch, soon, until};

/// More than a consumer ever fetches ahead.
const BACKLOG: i64 = 2_000;

#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy)]
#[event(type = "test.other")]
struct Other {
    n: i64,
}

/// What the handler with the limit did, and what lets it go on.
#[derive(Clone)]
struct Slow {
    begun: Log<i64>,
    running: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    /// Runs that were not the first attempt, or came after a delivery that was never settled.
    odd: Log<i64>,
}

impl Slow {
    fn new() -> Self {
        let running = Arc::default();
        let gate = Arc::new(Semaphore::new(0));
        Self {
            begun: Log::new(),
            running,
            gate,
            odd: Log::new(),
        }
    }

    async fn run(self, n: i64, context: Context) {
        assert_eq!(
            self.running.fetch_add(1, Ordering::SeqCst),
            0,
            "two at once"
        );

        let unsettled = context.deliveries() - context.headers().returned();
        if (context.attempt(), unsettled) != (1, 1) {
            self.odd.push(n);
        }

        self.begun.push(n);
        self.gate.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn handler(&self) -> Handler {
        let slow = self.clone();
        let handler = Handler::on("slow", move |event: Numbered, context: Context| {
            slow.clone().run(event.n, context)
        });
        handler.concurrency(1).timeout(None)
    }

    fn with_transaction(&self) -> Handler {
        let slow = self.clone();
        let handler = Handler::on("slow", move |event: Numbered, context: Context, _: Tx| {
            slow.clone().run(event.n, context)
        });
        handler.concurrency(1).timeout(None)
    }

    fn open(&self) {
        self.gate.add_permits(usize::try_from(BACKLOG).unwrap() * 2);
    }

    /// Each ran once, at its first attempt.
    fn all_ran(&self) {
        assert_eq!(self.begun.sorted(), (0..BACKLOG).collect::<Vec<_>>());
        assert_eq!(
            self.odd.take(),
            [0_i64; 0],
            "ran at a second attempt, or after a crash"
        );
    }
}

fn other() -> (Handler, Log<i64>) {
    let seen = Log::new();
    let log = seen.clone();
    let handler = Handler::on("other", move |event: Other| {
        let log = log.clone();
        async move { log.push(event.n) }
    });
    (handler, seen)
}

async fn connect(queue: &QueueName, handlers: [Handler; 2]) -> Ezq {
    let app = app(queue).configure(|config| config.lease = Duration::from_secs(5));
    let app = handlers
        .into_iter()
        .fold(app, |app, handler| app.register(handler));
    app.connect().await.unwrap()
}

async fn seen(log: &Log<i64>, wanted: &[i64]) {
    let mut all = Vec::new();
    until(|| {
        all.extend(log.take());
        let is_there = all.len() >= wanted.len();
        async move { is_there }
    })
    .await;
    all.sort_unstable();
    assert_eq!(all, wanted);
}

/// The other handler's events are handled while the first of the slow one's runs, for longer than a
/// lease; then everything is, and the `End` behind it is reached.
async fn starves_nobody(slow: Handler, work: &Slow) -> Report {
    let queue = queue();
    let (other, others) = other();
    let ezq = connect(&queue, [slow, other]).await;
    ezq.publish_all(&numbered(0..BACKLOG)).await.unwrap();
    ezq.publish(&Other { n: 0 }).await.unwrap();

    let consumer = ezq.consumer().concurrency(4).spawn();
    seen(&others, &[0]).await;

    tokio::time::sleep(Duration::from_secs(6)).await;
    ezq.publish(&Other { n: 1 }).await.unwrap();
    seen(&others, &[1]).await;
    assert_eq!(work.begun.take(), [0], "the first still runs");
    work.begun.push(0);

    ezq.publish(&End::default()).await.unwrap();
    ezq.publish(&Other { n: 2 }).await.unwrap();
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    assert_eq!(
        held(&ezq, &queue).await,
        [1, 0, 0, 0],
        "what stands behind the End"
    );

    ezq.close().await;
    report
}

#[tokio::test]
async fn a_backlog_of_a_limited_handler_keeps_no_other_from_being_handled() {
    let work = Slow::new();
    let report = starves_nobody(work.handler(), &work).await;
    work.all_ran();

    let wanted = u64::try_from(BACKLOG).unwrap() + 2;
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (wanted, 0),
        "{report}"
    );
}

#[tokio::test]
async fn nor_does_one_whose_handler_has_a_transaction() {
    let work = Slow::new();
    let report = starves_nobody(work.with_transaction(), &work).await;
    work.all_ran();

    let wanted = u64::try_from(BACKLOG).unwrap() + 2;
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (wanted, 0),
        "{report}"
    );
}

/// Where every message has the same due time, places differ by id alone.
#[tokio::test]
async fn a_batch_that_another_client_sent_is_passed_as_well() {
    let queue = queue();
    let work = Slow::new();
    let (other, others) = other();
    let ezq = connect(&queue, [work.handler(), other]).await;
    let slow = (0..BACKLOG).map(|n| format!(r#"{{"_type": "test.numbered", "n": {n}}}"#));
    let last = [r#"{"_type": "test.other", "n": 7}"#.to_owned()];
    send_batch(&ezq, &queue, &slow.chain(last).collect::<Vec<_>>()).await;

    let consumer = ezq.consumer().concurrency(4).spawn();
    seen(&others, &[7]).await;
    assert_eq!(work.begun.take(), [0], "the first still runs");

    work.begun.push(0);
    consumer.stop();
    until(|| async { held(&ezq, &queue).await[1] == 1 }).await;
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (2, 0),
        "{report}"
    );
    assert_eq!(
        held(&ezq, &queue).await,
        [u64::try_from(BACKLOG).unwrap() - 1, 0, 0, 0]
    );

    // What was given back is handled by whoever comes next, at its first attempt.
    let next = ezq.consumer().concurrency(4).until_idle().run();
    assert_eq!(
        soon(next).await.unwrap().counts.handled,
        u64::try_from(BACKLOG).unwrap() - 1
    );

    work.all_ran();
    ezq.close().await;
}

#[tokio::test]
async fn ordering_keys_keep_their_order_behind_a_backlog() {
    const KEYS: i64 = 300;

    let queue = queue();
    let work = Slow::new();
    let log = Log::new();

    let handlers = {
        let slow = work.clone();
        let slowly = log.clone();
        let quickly = log.clone();

        let slow = Handler::on("slow", move |event: Numbered, context: Context| {
            let slow = slow.clone();
            let log = slowly.clone();
            async move {
                slow.run(event.n, context).await;
                log.push((event.n / 2, event.n % 2 * 2));
            }
        });

        let quick = Handler::on("quick", move |event: Other| {
            let log = quickly.clone();
            async move { log.push((event.n, 1)) }
        });
        [slow.concurrency(1).timeout(None), quick]
    };

    let ezq = connect(&queue, handlers).await;

    // Each key has a slow event, a quick one and a slow one; one key has only quick ones.
    for n in 0..KEYS {
        let key = n.to_string();
        ezq.publish(&Numbered { n: 2 * n }).key(&key).await.unwrap();
        ezq.publish(&Other { n }).key(&key).await.unwrap();
        ezq.publish(&Numbered { n: 2 * n + 1 })
            .key(&key)
            .await
            .unwrap();
    }

    for _ in 0..20 {
        ezq.publish(&Other { n: KEYS }).key("free").await.unwrap();
    }

    let consumer = ezq.consumer().concurrency(4).spawn();
    let mut free = 0;
    until(|| {
        free += log
            .take()
            .iter()
            .filter(|entry| **entry == (KEYS, 1))
            .count();
        let all = free == 20;
        async move { all }
    })
    .await;
    assert_eq!(work.begun.take(), [0], "the first still runs");

    ezq.publish(&End::default()).await.unwrap();
    work.open();

    let report = soon(consumer).await.unwrap();
    assert_eq!(
        report.counts.handled,
        u64::try_from(3 * KEYS + 20).unwrap(),
        "{report}"
    );

    let ended = log.take();
    for key in 0..KEYS {
        let order: Vec<i64> = ended
            .iter()
            .filter(|(of, _)| *of == key)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(order, [0, 1, 2], "key {key}");
    }
    assert_eq!(work.odd.take(), [0_i64; 0]);
    ezq.close().await;
}
