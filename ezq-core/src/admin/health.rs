//! Health: whether the engines answer, and the state of each consumer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::{Instant, timeout};

use crate::admin::IngestHealth;
use crate::engine::Engine;
use crate::error::error_chain;
use crate::message::queue_name::QueueName;
use crate::observe::ingest::IngestState;
use crate::observe::report::Counts;
use crate::observe::status::{ConsumerState, ConsumerStatus};
use crate::shared::Shared;

/// How long a store may refuse a consumer before the process counts as not live.
const REFUSED: Duration = Duration::from_secs(60);

/// The health of an application. Get it by [`App::health`](crate::app::App::health).
///
/// Its `Display` is for people. Serde writes it with durations in seconds, and states and errors as
/// text.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Every engine of the application.
    pub engines: Vec<EngineHealth>,
    /// Every consumer of the application whose future or handle still exists. A consumer that
    /// failed or was dropped is listed without them too, until a newer one has run on its queue, or
    /// has failed as well.
    pub consumers: Vec<ConsumerHealth>,
    /// Every ingest of the application whose future or handle still exists, and those that failed.
    pub ingests: Vec<IngestHealth>,
}

/// The health of an engine.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EngineHealth {
    /// The name of a [named engine](crate::app::AppBuilder::named_engine); `None` for the
    /// application's own.
    pub name: Option<String>,
    /// The kind of engine, such as `pgmq`.
    pub kind: &'static str,
    /// How long it took to answer, if it answered.
    #[serde(serialize_with = "seconds")]
    pub answered_in: Option<Duration>,
    /// Why it did not answer, if it did not.
    pub error: Option<String>,
}

/// The health of a consumer.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ConsumerHealth {
    /// Its queue; `None` if it was given a text that is not a queue name.
    #[serde(serialize_with = "name")]
    pub queue: Option<QueueName>,
    /// Its state.
    #[serde(serialize_with = "text")]
    pub state: ConsumerState,
    /// How long ago its newest claim was answered. A busy consumer claims nothing, so a long time
    /// alone is not a fault.
    #[serde(serialize_with = "seconds")]
    pub last_claim: Option<Duration>,
    /// How long the oldest readable message has been due: zero if there is none or the queue is
    /// paused, `None` if the engine did not answer.
    #[serde(serialize_with = "seconds")]
    pub lag: Option<Duration>,
    /// Why claiming, renewing or settling fails, why the engine did not answer for the lag, or why the
    /// broker of its [relay](crate::relay) does not answer.
    pub error: Option<String>,
    /// Whether its queue is paused, or every handler of it; see [`Queues`](crate::admin::Queues). A
    /// paused consumer is ready: it does what it was asked to.
    pub is_paused: bool,
    /// How long the store has refused its claims, because of the login or a missing right; `None`
    /// if it does not, or the consumer has ended.
    #[serde(serialize_with = "seconds")]
    pub refused_for: Option<Duration>,
    /// How often it was [started again](crate::consumer::Consumer::restart).
    pub restarts: u32,
    /// How many events it has handled so far, by outcome.
    pub counts: Counts,
}

impl Health {
    /// Whether every engine answers, every consumer can claim, renew and settle, and every ingest can
    /// read and store. For a readiness probe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.engines.iter().all(|engine| engine.error.is_none())
            && self.consumers.iter().all(ConsumerHealth::is_ready)
            && self.ingests.iter().all(IngestHealth::is_ready)
    }

    /// Whether this process can go on; `false` if a new process would help. For a liveness probe.
    ///
    /// A new process helps in two cases:
    ///
    /// - A consumer failed for good or was dropped, and no newer one runs on its queue. Or an ingest did.
    /// - The store has refused a consumer for longer than a minute. A new process may have newer
    ///   credentials.
    ///
    /// It does not help if a consumer stopped on request, or if an engine does not answer at
    /// present.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let consumers_live = self.consumers.iter().all(|one| {
            let is_refused = one.refused_for.is_some_and(|time| time > REFUSED);
            !is_refused && !matches!(one.state, ConsumerState::Failed(_))
        });
        // A consumer that stopped may have been told to; so may an ingest.
        consumers_live
            && !self
                .ingests
                .iter()
                .any(|one| matches!(one.state, IngestState::Failed(_)))
    }
}

impl ConsumerHealth {
    /// Whether the consumer runs, and can claim, renew and settle.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == ConsumerState::Running && self.error.is_none()
    }

    pub(crate) async fn of(app: &Shared, status: &ConsumerStatus) -> Self {
        let state = status.state();
        let mut lag = None;
        let mut error = status.failure();
        let is_paused = status.is_paused() && !state.is_ended();

        // An ended consumer has no lag: nothing of this application waits for its queue.
        if let (Some(queue), false) = (&status.queue, state.is_ended()) {
            let asked = app.services.engines.of(queue).lag(queue);
            match timeout(app.config.connect_timeout, asked).await {
                // What waits because it is paused is not behind.
                Ok(Ok(found)) => lag = Some(found.filter(|_| !is_paused).unwrap_or_default()),
                Ok(Err(why)) => error = Some(error_chain(&why)),
                Err(_) => error = Some(late(app.config.connect_timeout)),
            }
        }

        if error.is_none() && !state.is_ended() {
            error = app.broker_failure(status.queue.as_ref()).await;
        }
        Self {
            queue: status.queue.clone(),
            state,
            last_claim: status.last_claim(),
            lag,
            error,
            is_paused,
            refused_for: status.refused_for(),
            restarts: status.restarts(),
            counts: status.counters.counts(),
        }
    }
}

impl EngineHealth {
    pub(crate) async fn of(name: Option<&String>, engine: &dyn Engine, patience: Duration) -> Self {
        let kind = engine.capabilities().name;
        let asked = Instant::now();
        let error = match timeout(patience, engine.health_check()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(_) => Some(late(patience)),
        };
        let answered_in = error.is_none().then(|| asked.elapsed());
        Self {
            name: name.cloned(),
            kind,
            answered_in,
            error,
        }
    }
}

fn late(patience: Duration) -> String {
    format!("no answer within {patience:?}")
}

impl Shared {
    /// Adds a consumer that begins.
    pub(crate) fn note(&self, status: &Arc<ConsumerStatus>) {
        let mut known = self
            .consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        forget(&mut known);
        known.push(Arc::clone(status));
    }

    pub(crate) fn consumers(&self) -> Vec<Arc<ConsumerStatus>> {
        let mut known = self
            .consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        forget(&mut known);
        known.clone()
    }
}

/// Removes consumers that stopped on request and whose handle is gone, and consumers that failed
/// and were replaced. A consumer that replaces failed ones makes room for itself, so the list
/// cannot grow without end.
fn forget(known: &mut Vec<Arc<ConsumerStatus>>) {
    // For each queue: when the newest consumer began that has run, or has failed as well.
    let mut newer = HashMap::new();
    // Newest first, so that each is compared with those that replaced it.
    known.reverse();
    known.retain(|one| {
        // One count is this list's; a future or a handle of the consumer holds another.
        let is_held = Arc::strong_count(one) > 1;
        let is_listed = match (one.failed(), &one.queue) {
            (None, _) => is_held,
            (Some(failed), Some(queue)) => newer.get(queue).is_none_or(|began| *began < failed),
            // No other consumer can replace one without a queue.
            (Some(_), None) => is_held,
        };

        if let Some(queue) = one
            .queue
            .clone()
            .filter(|_| one.failed().is_some() || one.has_run())
        {
            newer.entry(queue).or_insert(one.began);
        }
        is_listed
    });
    known.reverse();
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ready() {
            "ready"
        } else {
            "not ready"
        })?;
        self.engines
            .iter()
            .try_for_each(|engine| write!(f, "; {engine}"))?;
        self.consumers
            .iter()
            .try_for_each(|consumer| write!(f, "; {consumer}"))?;
        self.ingests
            .iter()
            .try_for_each(|ingest| write!(f, "; {ingest}"))
    }
}

impl fmt::Display for EngineHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "the engine `{name}` ({})", self.kind)?,
            None => write!(f, "the engine `{}`", self.kind)?,
        }
        match &self.error {
            None => f.write_str(" answers"),
            Some(error) => write!(f, " does not answer: {error}"),
        }
    }
}

impl fmt::Display for ConsumerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.as_ref().map_or("?", QueueName::as_str);
        write!(f, "the consumer of `{queue}`: {}", self.state)?;
        if self.is_paused {
            f.write_str(", paused")?;
        }
        if let Some(lag) = self.lag.filter(|lag| !lag.is_zero()) {
            write!(f, ", {lag:.1?} behind")?;
        }
        self.error
            .as_ref()
            .map_or(Ok(()), |error| write!(f, ", failing: {error}"))
    }
}

#[allow(clippy::ref_option)]
fn seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}

#[allow(clippy::ref_option)]
fn name<S: Serializer>(queue: &Option<QueueName>, to: S) -> Result<S::Ok, S::Error> {
    queue.as_ref().map(QueueName::as_str).serialize(to)
}

fn text<S: Serializer>(state: &ConsumerState, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(state)
}
