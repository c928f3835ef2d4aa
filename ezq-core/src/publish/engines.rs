//! Which engine keeps which queue, and publishing to whichever it is.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::{Broadcasts, Engine, Outgoing, PublishOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;

/// The default engine and the named ones, with the queues that are routed to them.
#[derive(Clone)]
pub(crate) struct Engines {
    pub(crate) default: Arc<dyn Engine>,
    pub(crate) named: BTreeMap<String, Arc<dyn Engine>>,
    pub(crate) routes: BTreeMap<QueueName, String>,
}

impl Engines {
    /// Checks that every route names an engine.
    pub(crate) fn validate(&self) -> Result<()> {
        for (queue, name) in &self.routes {
            if !self.named.contains_key(name) {
                return Err(Error::new(
                    ErrorKind::Configuration,
                    format!(
                        "the queue `{queue}` is routed to an engine `{name}` that was not added"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The engine that keeps a queue.
    pub(crate) fn of(&self, queue: &QueueName) -> &Arc<dyn Engine> {
        self.routes
            .get(queue)
            .and_then(|name| self.named.get(name))
            .unwrap_or(&self.default)
    }

    /// The application's own engine, if it is an `E`: a caller's transaction is one of that engine's.
    pub(crate) fn own<E: Engine>(&self) -> Result<&E> {
        let engine: &dyn Any = &*self.default;
        engine.downcast_ref().ok_or_else(|| {
            let name = self.default.capabilities().name;
            let text = format!(
                "the application's engine `{name}` cannot store events in this transaction: \
                 publish after its commit, or build the application on the engine of that \
                 transaction"
            );
            Error::new(ErrorKind::Unsupported, text)
        })
    }

    /// Refuses a queue of a named engine: a caller's transaction is one of the application's own
    /// engine, and may not even be in the named one's database.
    pub(crate) fn check_own(&self, queue: &QueueName) -> Result<()> {
        let Some(name) = self.routes.get(queue) else {
            return Ok(());
        };
        let text = format!(
            "the queue `{queue}` is routed to the engine `{name}`: no transaction of the \
             application's own engine can store its events. Publish them after the commit, without \
             the transaction"
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Whether two queues are kept by one engine, so that one step can change both.
    pub(crate) fn same(&self, one: &QueueName, other: &QueueName) -> bool {
        self.routes.is_empty() || self.routes.get(one) == self.routes.get(other)
    }

    /// Where subscriptions are kept: by the application's own engine.
    pub(crate) fn broadcasts(&self) -> Result<&dyn Broadcasts> {
        self.default.broadcasts().ok_or_else(|| {
            let name = self.default.capabilities().name;
            Error::new(
                ErrorKind::Unsupported,
                format!("the engine `{name}` does not broadcast"),
            )
        })
    }

    /// Checks that a queue is kept where subscriptions are.
    pub(crate) fn check_broadcast(&self, queue: &QueueName) -> Result<()> {
        if !self.routes.contains_key(queue) {
            return Ok(());
        }
        let text = format!(
            "the queue `{queue}` is kept by a named engine: only queues of the application's own \
             engine get copies of broadcasts"
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        std::iter::once(&self.default).chain(self.named.values())
    }

    /// The same, each named one with its name.
    pub(crate) fn with_names(&self) -> impl Iterator<Item = (Option<&String>, &Arc<dyn Engine>)> {
        let named = self.named.iter().map(|(name, engine)| (Some(name), engine));
        std::iter::once((None, &self.default)).chain(named)
    }

    /// Publishes to the engines that keep the queues. A missing queue is created, and its messages are
    /// published again.
    ///
    /// The order of the messages is kept: each run of messages of one engine is one call.
    pub(crate) async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        if self.routes.is_empty() {
            return publish_to(&*self.default, messages).await;
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut rest = messages.into_iter().peekable();
        while let Some(first) = rest.next() {
            let queue = first.queue.clone();

            let mut run = vec![first];
            while let Some(next) = rest.next_if(|next| self.same(&queue, &next.queue)) {
                run.push(next);
            }
            let count = run.len();

            match publish_to(&**self.of(&queue), run).await {
                Ok(done) => outcomes.extend(done),
                // All messages went to one engine, so nothing is known to be stored.
                Err(error) if outcomes.is_empty() && rest.peek().is_none() => return Err(error),
                // Other engines have stored messages: the error is that of this run alone.
                Err(error) => {
                    let copies: Vec<Error> = (1..count).map(|_| error.without_source()).collect();
                    outcomes.push(PublishOutcome::Failed(error));
                    outcomes.extend(copies.into_iter().map(PublishOutcome::Failed));
                }
            }
        }
        Ok(outcomes)
    }
}

/// Publishes to one engine. Where a queue is missing, it is created, and its messages are published
/// once more: creating it beforehand would cost every publish a look.
async fn publish_to(engine: &dyn Engine, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
    let copy = messages.clone();
    let mut outcomes = match engine.publish(messages).await {
        Err(error) if is_missing(&error) => {
            ensure(engine, copy.iter()).await?;
            return engine.publish(copy).await;
        }
        other => other?,
    };

    let again: Vec<usize> = outcomes
        .iter()
        .enumerate()
        .filter(
            |(_, outcome)| matches!(outcome, PublishOutcome::Failed(error) if is_missing(error)),
        )
        .map(|(index, _)| index)
        .collect();
    if again.is_empty() {
        return Ok(outcomes);
    }

    ensure(engine, again.iter().map(|index| &copy[*index])).await?;
    let retried = engine
        .publish(again.iter().map(|index| copy[*index].clone()).collect())
        .await?;
    for (index, outcome) in again.into_iter().zip(retried) {
        outcomes[index] = outcome;
    }
    Ok(outcomes)
}

fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::QueueMissing
}

/// Creates the queues that messages go to.
pub(crate) async fn ensure(
    engine: &dyn Engine,
    messages: impl Iterator<Item = &Outgoing>,
) -> Result<()> {
    let queues: BTreeSet<&QueueName> = messages.map(|message| &message.queue).collect();
    for queue in queues {
        engine.ensure_queue(queue).await?;
    }
    Ok(())
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engines")
            .field("default", &self.default.capabilities().name)
            .field("named", &self.named.keys())
            .field("routes", &self.routes)
            .finish()
    }
}
