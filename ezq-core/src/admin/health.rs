//! Health and readiness: whether the engines answer, and how each consumer is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::{Instant, timeout};

use crate::engine::Engine;
use crate::error::error_chain;
use crate::message::queue_name::QueueName;
use crate::observe::report::Counts;
use crate::observe::status::{ConsumerState, ConsumerStatus};
use crate::shared::Shared;

/// For how long a store may refuse a consumer that counts as live.
const REFUSED: Duration = Duration::from_secs(60);

/// How an application is: [`App::health`](crate::App::health) tells.
///
/// It can be displayed, and written by serde: durations in seconds, states and errors as text.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Every engine of the application.
    pub engines: Vec<EngineHealth>,
    /// Every consumer of the application whose future or handle is still there. One that failed or was
    /// dropped is listed even if nobody has its handle any more, until a newer one has run on its
    /// queue, or failed as well.
    pub consumers: Vec<ConsumerHealth>,
}

/// How an engine is.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EngineHealth {
    /// Its name, if the application [gave it one](crate::AppBuilder::named_engine); `None` of the
    /// application's own.
    pub name: Option<String>,
    /// What it is, such as `pgmq`.
    pub kind: &'static str,
    /// How long it took to answer, if it did.
    #[serde(serialize_with = "seconds")]
    pub answered_in: Option<Duration>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// How a consumer is.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ConsumerHealth {
    /// Its queue; `None` if it was given a name that is none.
    #[serde(serialize_with = "name")]
    pub queue: Option<QueueName>,
    /// How far it is.
    #[serde(serialize_with = "text")]
    pub state: ConsumerState,
    /// How long ago a claim was answered. A consumer that is busy claims nothing, so a long time alone
    /// is no fault.
    #[serde(serialize_with = "seconds")]
    pub last_claim: Option<Duration>,
    /// How long the oldest message that could be handled has been due: zero if there is none,
    /// `None` if the engine did not say.
    #[serde(serialize_with = "seconds")]
    pub lag: Option<Duration>,
    /// Why claiming, renewing or settling fails, or the engine did not answer just now.
    pub error: Option<String>,
    /// For how long the store has refused its claims, because of the login or a missing right; `None`
    /// once it has ended.
    #[serde(serialize_with = "seconds")]
    pub refused_for: Option<Duration>,
    /// How often it was [started again](crate::Consumer::restart).
    pub restarts: u32,
    /// What it did so far.
    pub counts: Counts,
}

impl Health {
    /// Whether every engine answers, and every consumer claims, renews and settles. For a readiness
    /// probe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let answers = |engine: &EngineHealth| engine.error.is_none();
        self.engines.iter().all(answers) && self.consumers.iter().all(ConsumerHealth::is_ready)
    }

    /// Whether a new process would not help. It would where a consumer failed for good or was dropped,
    /// and no newer one runs on its queue; and where the store has refused a consumer for longer than a
    /// minute, since a new process may have newer credentials. A consumer that stopped as it was told
    /// has not failed, and an engine that does not answer may do so later. For a liveness probe.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.consumers.iter().all(|one| {
            let is_refused = one.refused_for.is_some_and(|time| time > REFUSED);
            !is_refused && !matches!(one.state, ConsumerState::Failed(_))
        })
    }
}

impl ConsumerHealth {
    /// Whether it runs and nothing keeps it from claiming, renewing and settling.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == ConsumerState::Running && self.error.is_none()
    }

    pub(crate) async fn of(app: &Shared, status: &ConsumerStatus) -> Self {
        let (mut lag, mut error) = (None, status.failure());
        let state = status.state();
        if let (Some(queue), false) = (&status.queue, state.is_ended()) {
            let asked = app.services.engines.of(queue).lag(queue);
            match timeout(app.config.connect_timeout, asked).await {
                Ok(Ok(found)) => lag = Some(found.unwrap_or_default()),
                Ok(Err(why)) => error = Some(error_chain(&why)),
                Err(_) => error = Some(late(app.config.connect_timeout)),
            }
        }
        Self {
            queue: status.queue.clone(),
            state,
            last_claim: status.last_claim(),
            lag,
            error,
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
    /// Notes a consumer that begins.
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

/// Forgets those that ended as they were told and that nobody has any more, and those that failed
/// and were replaced: each that begins in place of failed ones makes room, so this cannot grow.
fn forget(known: &mut Vec<Arc<ConsumerStatus>>) {
    // Of each queue, when the newest of those looked at so far began that has run, or failed as well.
    let mut newer = HashMap::new();
    known.reverse();
    known.retain(|one| {
        let is_held = Arc::strong_count(one) > 1;
        let is_told = match (one.failed(), &one.queue) {
            (None, _) => is_held,
            (Some(failed), Some(queue)) => newer.get(queue).is_none_or(|began| *began < failed),
            // Without a queue that is one, no other can replace it.
            (Some(_), None) => is_held,
        };

        if let Some(queue) = one
            .queue
            .clone()
            .filter(|_| one.failed().is_some() || one.has_run())
        {
            newer.entry(queue).or_insert(one.began);
        }
        is_told
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
            .try_for_each(|consumer| write!(f, "; {consumer}"))
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
