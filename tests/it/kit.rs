//! What the tests share: a queue of one's own, patience with a limit, and a handler to watch.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use ezq::consumer::{Report, StopReason};
use ezq::engine::DeadLetter;
use ezq::handler::Backoff;
use ezq::prelude::*;
use ezq::{EzqBuilder, Handler, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tracing::Level;

/// No wait takes this long unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[event(type = "test.numbered")]
pub(crate) struct Numbered {
    pub(crate) n: i64,
}

pub(crate) fn numbered(range: impl IntoIterator<Item = i64>) -> Vec<Numbered> {
    range.into_iter().map(|n| Numbered { n }).collect()
}

/// A name that no other test has, in this or another process.
pub(crate) fn queue() -> QueueName {
    let id = ezq::Envelope::builder("t", "t")
        .build()
        .unwrap()
        .id()
        .replace('-', "");
    QueueName::new(&format!("it_{id}")).unwrap()
}

/// An application on a queue of its own that knows no handler yet and retries at once.
pub(crate) fn app(queue: &QueueName) -> EzqBuilder {
    show_warnings_of_failed_tests();
    let queue = queue.clone();
    Ezq::builder()
        .without_discovered_handlers()
        .configure(|config| {
            config.queue = queue;
            config.concurrency = 4;
            config.retry.backoff = Backoff::constant(Duration::ZERO);
        })
}

/// Warnings go where the harness captures them, and not to stderr.
fn show_warnings_of_failed_tests() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_test_writer();
        subscriber.init();
    });
}

/// What a future gives, soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let Ok(given) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("nothing happened within {PATIENCE:?}");
    };
    given
}

/// Waits until a question is answered with yes.
pub(crate) async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Handles all that is due, and what that brings forth.
pub(crate) async fn drain(ezq: &Ezq) -> Report {
    let report = soon(ezq.consumer().until_idle().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::Idle);
    report
}

/// Sends bodies as another client of PGMQ does: in one statement, with one due time.
pub(crate) async fn send_batch(ezq: &Ezq, queue: &QueueName, bodies: &[String]) -> Vec<i64> {
    ezq.engine(queue).ensure_queue(queue).await.unwrap();
    ezq::sqlx::query_scalar("SELECT pgmq.send_batch($1, $2::text[]::jsonb[])")
        .bind(queue.as_str())
        .bind(bodies)
        .fetch_all(ezq.pool())
        .await
        .unwrap()
}

/// Every dead letter of a queue, oldest first.
pub(crate) async fn dead(ezq: &Ezq, queue: &QueueName) -> Vec<DeadLetter> {
    ezq.dead_letters(queue)
        .unwrap()
        .list(&ezq::admin::DeadLetterFilter::all(), 1000)
        .await
        .unwrap()
}

/// The only dead letter of a queue.
pub(crate) async fn only_dead(ezq: &Ezq, queue: &QueueName) -> DeadLetter {
    let mut letters = dead(ezq, queue).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

/// How many messages a queue holds: ready, in progress, scheduled, dead.
pub(crate) async fn held(ezq: &Ezq, queue: &QueueName) -> [u64; 4] {
    let stats = ezq.stats(queue).await.unwrap();
    [stats.ready, stats.in_progress, stats.scheduled, stats.dead]
}

/// What handlers wrote down, in the order in which they did.
#[derive(Debug)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What was written since the last time.
    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl<T: Ord> Log<T> {
    /// As [`take`](Self::take), sorted.
    pub(crate) fn sorted(&self) -> Vec<T> {
        let mut entries = self.take();
        entries.sort();
        entries
    }
}

/// A handler of [`Numbered`] that tells when it starts, waits where told to, and writes down what
/// it finished.
pub(crate) struct Work {
    started: mpsc::UnboundedReceiver<i64>,
    /// What was finished.
    pub(crate) handled: Log<i64>,
    /// What was begun and neither finished nor failed: its future was dropped.
    pub(crate) dropped: Log<i64>,
    gate: Arc<Semaphore>,
}

impl Work {
    /// The handler waits at a gate for the numbers named.
    pub(crate) fn waiting_for(waits: impl IntoIterator<Item = i64>) -> (Handler, Self) {
        let waits: Arc<BTreeSet<i64>> = Arc::new(waits.into_iter().collect());
        let (sender, started) = mpsc::unbounded_channel();
        let work = Self {
            started,
            handled: Log::new(),
            dropped: Log::new(),
            gate: Arc::new(Semaphore::new(0)),
        };

        let handled = work.handled.clone();
        let dropped = work.dropped.clone();
        let gate = Arc::clone(&work.gate);

        let handler = Handler::on("work", move |Numbered { n }: Numbered| {
            let waits = Arc::clone(&waits);
            let sender = sender.clone();
            let gate = Arc::clone(&gate);
            let handled = handled.clone();
            let dropped = dropped.clone();

            async move {
                let mut unfinished = Unfinished {
                    n: Some(n),
                    dropped,
                };

                // Nobody may be watching any more.
                let _ = sender.send(n);
                if waits.contains(&n) {
                    gate.acquire().await.unwrap().forget();
                }
                unfinished.n = None;
                handled.push(n);
            }
        });

        (handler, work)
    }

    /// The handler waits for nothing.
    pub(crate) fn quick() -> (Handler, Self) {
        Self::waiting_for([])
    }

    /// The next number whose handling begins.
    pub(crate) async fn started(&mut self) -> i64 {
        soon(self.started.recv()).await.unwrap()
    }

    /// Lets so many through the gate.
    pub(crate) fn open_for(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Lets everything through the gate.
    pub(crate) fn open(&self) {
        self.gate.add_permits(1_000_000);
    }
}

struct Unfinished {
    n: Option<i64>,
    dropped: Log<i64>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(n) = self.n {
            self.dropped.push(n);
        }
    }
}
