//! A broker that does as it is told.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::async_trait;
use ezq_core::broker::{Outbound, SendOutcome, Sink, SinkCapabilities};
use ezq_core::{Error, ErrorKind};
use tokio::time::{Instant, timeout};

use crate::fixtures::Step;

/// What the broker does with one call.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// The call fails.
    Away,
    /// It never answers.
    Hang,
    /// It answers one outcome too few.
    Short,
    /// It stores messages whose number is even, and none that stands behind another of its key.
    FailOdd,
    /// It stores messages whose number is even, whatever stands before them.
    FailOddOnly,
    /// The sink panics.
    Panic,
    /// It refuses messages whose number is odd, for good.
    RejectOdd,
}

/// Stores messages, after it has given the answers that it was told to give.
#[derive(Clone, Default)]
pub(super) struct Broker {
    pub(super) answers: Arc<Mutex<VecDeque<Answer>>>,
    pub(super) stored: Arc<Mutex<Vec<(String, String, u32)>>>,
    /// What it was sent, in structured mode.
    pub(super) bodies: Arc<Mutex<Vec<String>>>,
    pub(super) calls: Arc<Mutex<Vec<Instant>>>,
    /// How many messages each call brought.
    pub(super) sizes: Arc<Mutex<Vec<usize>>>,
    /// It declares neither an order nor its largest message.
    pub(super) is_unordered: bool,
    pub(super) is_ill: Arc<AtomicBool>,
    pub(super) is_closed: Arc<AtomicBool>,
}

impl Broker {
    pub(super) fn told(answers: impl IntoIterator<Item = Answer>) -> Self {
        let broker = Self::default();
        broker.answers.lock().unwrap().extend(answers);
        broker
    }

    pub(super) fn numbers(&self) -> Vec<u32> {
        self.stored
            .lock()
            .unwrap()
            .iter()
            .map(|(.., n)| *n)
            .collect()
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Waits, in paused time, until so many messages are stored.
    pub(super) async fn has_stored(&self, count: usize) {
        let stored = async {
            while self.numbers().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(3600);
        timeout(limit, stored).await.expect("the broker gets them");
    }

    fn store(&self, message: &Outbound) -> SendOutcome {
        let step: Step = message.envelope().decode().unwrap();
        let of = (message.topic().to_owned(), message.id().to_owned(), step.n);
        self.stored.lock().unwrap().push(of);
        let body = String::from_utf8(message.structured().unwrap()).unwrap();
        self.bodies.lock().unwrap().push(body);
        SendOutcome::Sent
    }
}

fn is_odd(message: &Outbound) -> bool {
    message.envelope().decode::<Step>().unwrap().n % 2 == 1
}

fn failure() -> Error {
    Error::new(ErrorKind::Transient, "the broker is away")
}

#[async_trait]
impl Sink for Broker {
    fn capabilities(&self) -> &SinkCapabilities {
        const ORDERED: SinkCapabilities = SinkCapabilities::new("scripted")
            .ordered()
            .max_message(1_000);
        match self.is_unordered {
            true => const { &SinkCapabilities::new("scripted") },
            false => const { &ORDERED },
        }
    }

    async fn health_check(&self) -> ezq_core::Result<()> {
        match self.is_ill.load(Ordering::Relaxed) {
            true => Err(failure()),
            false => Ok(()),
        }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    async fn send(&self, batch: &[Outbound]) -> ezq_core::Result<Vec<SendOutcome>> {
        self.calls.lock().unwrap().push(Instant::now());
        self.sizes.lock().unwrap().push(batch.len());
        let answer = self.answers.lock().unwrap().pop_front();
        let mut failed = HashSet::new();
        let outcomes = batch.iter().map(|message| match answer {
            Some(Answer::FailOdd)
                if is_odd(message) || failed.contains(&message.ordering_key()) =>
            {
                failed.extend(message.ordering_key().map(Some));
                SendOutcome::Failed(failure())
            }
            Some(Answer::FailOddOnly) if is_odd(message) => SendOutcome::Failed(failure()),
            Some(Answer::RejectOdd) if is_odd(message) => SendOutcome::Rejected(failure()),
            _ => self.store(message),
        });

        match answer {
            Some(Answer::Away) => Err(failure()),
            Some(Answer::Panic) => panic!("the sink is broken"),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Short) => Ok(Vec::new()),
            _ => Ok(outcomes.collect()),
        }
    }
}
