//! Which queues get copies of which broadcast events: what consumers add, and what people look at
//! and remove.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Broadcasts, EventParty, EventRole, QueueSubscription};
use crate::error::{Error, ErrorKind, Result};
use crate::event::is_control;
use crate::event::pattern::Pattern;
use crate::handler::{Handler, Subscription};
use crate::message::queue_name::QueueName;
use crate::shared::Shared;

/// The subscriptions of all applications that share a store;
/// [`App::subscriptions`](crate::App::subscriptions).
///
/// A change counts from the next broadcast on, whoever publishes and without a restart. Consumers
/// that [subscribe](crate::Consumer::subscribe) only add, so a removal lasts until a consumer starts
/// whose handlers ask for the same again.
#[derive(Clone, Copy)]
pub struct Subscriptions<'a> {
    store: &'a dyn Broadcasts,
    inner: &'a Shared,
}

/// A queue that would get a copy of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recipient {
    /// The queue. It gets one copy.
    pub queue: QueueName,
    /// Whether it exists; otherwise it gets none, and the publisher is told.
    pub exists: bool,
    /// Why: the subscriptions that match.
    pub subscriptions: Vec<QueueSubscription>,
}

/// Who has to do with a type of event, as far as applications said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventParties {
    /// The applications that [own](crate::AppBuilder::owns) the type; more than one is a
    /// disagreement.
    pub owners: Vec<String>,
    /// The applications that [publish](crate::AppBuilder::publishes) it, owners included.
    pub publishers: Vec<String>,
    /// The queues that handle what is broadcast of it, with the applications that subscribed them.
    pub recipients: Vec<Recipient>,
}

impl<'a> Subscriptions<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Result<Self> {
        Ok(Self {
            store: inner.services.engines.broadcasts()?,
            inner,
        })
    }

    /// Every subscription of every application, by queue, pattern and application.
    ///
    /// # Errors
    /// When the store could not be read.
    pub async fn list(&self) -> Result<Vec<QueueSubscription>> {
        self.store.subscriptions().await
    }

    /// Which queues would get a copy of an event of a type, and why.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn test(&self, event_type: &str) -> Result<Vec<Recipient>> {
        let mut recipients = BTreeMap::<QueueName, Recipient>::new();
        for found in self.list().await? {
            if !found.pattern.matches(event_type) {
                continue;
            }
            let new = |queue: &QueueName, exists| Recipient {
                queue: queue.clone(),
                exists,
                subscriptions: Vec::new(),
            };
            let recipient = recipients
                .entry(found.queue.clone())
                .or_insert_with(|| new(&found.queue, found.queue_exists));
            recipient.subscriptions.push(found);
        }
        Ok(recipients.into_values().collect())
    }

    /// Who owns a type, who publishes it, and who handles what is broadcast of it: what applications
    /// said where they were built, and who is subscribed.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn parties(&self, event_type: &str) -> Result<EventParties> {
        let said = self.store.parties(event_type).await?;
        let with = |role: EventRole| {
            let of_role = said.iter().filter(move |party| party.role == role);
            of_role
                .map(|party| party.app.clone())
                .collect::<BTreeSet<String>>()
        };
        let owners = with(EventRole::Owner);
        let publishers = with(EventRole::Publisher).union(&owners).cloned().collect();
        let recipients = self.test(event_type).await?;
        Ok(EventParties {
            owners: owners.into_iter().collect(),
            publishers,
            recipients,
        })
    }

    /// Subscribes a queue, for this application, to the types that match a pattern; whether that is
    /// new. The queue need not have a consumer of ezq's.
    ///
    /// # Errors
    /// For a wrong name or pattern; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a
    /// queue that another engine keeps; when the store could not be written.
    pub async fn add(
        &self,
        queue: impl TryInto<QueueName, Error = Error>,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> Result<bool> {
        let (queue, pattern) = (queue.try_into()?, pattern.try_into()?);
        self.inner.services.engines.check_broadcast(&queue)?;
        Ok(self
            .store
            .subscribe(&self.inner.config.app, &queue, &[pattern])
            .await?
            > 0)
    }

    /// Removes a subscription of this application; whether there was one. Another application's
    /// subscription of the same queue stays.
    ///
    /// # Errors
    /// For a wrong name or pattern, and when the store could not be written.
    pub async fn remove(
        &self,
        queue: impl TryInto<QueueName, Error = Error>,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> Result<bool> {
        let one = (queue.try_into()?, pattern.try_into()?);
        Ok(self
            .store
            .unsubscribe(&self.inner.config.app, &[one])
            .await?
            > 0)
    }

    /// Removes every subscription of an application, such as one that is no more, and all that it
    /// said of types that it [owns](crate::AppBuilder::owns) and
    /// [publishes](crate::AppBuilder::publishes); how many of both.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn remove_app(&self, app: &str) -> Result<u64> {
        let forgotten = self.forget_unless(app, |_| false).await?;
        Ok(forgotten.saturating_add(self.remove_unless(app, |_| false).await?))
    }

    /// Removes what an application said of one type: that it [owns](crate::AppBuilder::owns) or
    /// [publishes](crate::AppBuilder::publishes) it; whether it had said so. While it still says so
    /// where it is built, its next start records it again.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn forget(&self, app: &str, event_type: &str) -> Result<bool> {
        Ok(self
            .forget_unless(app, |party| party.event_type != event_type)
            .await?
            > 0)
    }

    /// Removes this application's subscriptions, but those that its handlers ask for in these
    /// queues, and what it said of types and says no longer; how many of both. What stays is what
    /// consumers of these queues add when they start: call it once a deployment is through, with
    /// every queue that the application consumes.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn prune(&self, queues: &[QueueName]) -> Result<u64> {
        let mut wanted = BTreeMap::new();
        for queue in queues {
            wanted.insert(queue, self.inner.patterns(queue)?);
        }
        let stays = |one: &QueueSubscription| {
            wanted
                .get(&one.queue)
                .is_some_and(|patterns| patterns.contains(&one.pattern))
        };
        let app = &self.inner.config.app;
        let said = self.inner.said();
        let forgotten = self
            .forget_unless(app, |party| said.contains(party))
            .await?;
        Ok(forgotten.saturating_add(self.remove_unless(app, stays).await?))
    }

    async fn forget_unless(&self, app: &str, stays: impl Fn(&EventParty) -> bool) -> Result<u64> {
        let mut goes = self.store.said_by(app).await?;
        goes.retain(|party| !stays(party));
        if goes.is_empty() {
            Ok(0)
        } else {
            self.store.forget(&goes).await
        }
    }

    async fn remove_unless(
        &self,
        app: &str,
        stays: impl Fn(&QueueSubscription) -> bool,
    ) -> Result<u64> {
        let standing = self.list().await?.into_iter();
        let goes = standing.filter(|one| one.app == app && !stays(one));
        let which: Vec<_> = goes.map(|one| (one.queue, one.pattern)).collect();
        if which.is_empty() {
            Ok(0)
        } else {
            self.store.unsubscribe(app, &which).await
        }
    }
}

impl std::fmt::Debug for Subscriptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriptions")
            .field("app", &self.inner.config.app)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// What the handlers of a queue ask for: the types they take, under every name. A catch-all
    /// takes what its patterns mean, or all; control events are published to the queue itself.
    pub(crate) fn patterns(&self, queue: &QueueName) -> Result<BTreeSet<Pattern>> {
        let mut patterns = BTreeSet::new();
        for handler in self.dispatcher.registry.of(queue) {
            patterns.extend(patterns_of(handler)?);
        }
        Ok(patterns)
    }

    /// Records what this application said of types, if it said something.
    pub(crate) async fn announce(&self) -> Result<()> {
        if self.parties.is_empty() {
            return Ok(());
        }
        self.services
            .engines
            .broadcasts()?
            .record(&self.said())
            .await
    }

    /// What this application says of types.
    fn said(&self) -> Vec<EventParty> {
        let of_app = |(role, event_type): &(EventRole, &'static str)| {
            let (event_type, app) = ((*event_type).to_owned(), self.config.app.clone());
            EventParty {
                event_type,
                role: *role,
                app,
            }
        };
        self.parties.iter().map(of_app).collect()
    }
}

/// The pattern that means one type and no other.
fn literal(event_type: &str) -> Result<Pattern> {
    if event_type.contains(['*', '#']) {
        let text = format!(
            "the event type `{}` cannot be subscribed to: `*` and `#` stand for other names in a \
             pattern. Rename the type, or take it by a handler of `AnyEvent` with a `pattern`",
            event_type.escape_debug()
        );
        return Err(Error::new(ErrorKind::InvalidPattern, text));
    }
    Pattern::new(event_type)
}

fn patterns_of(handler: &Handler) -> Result<Vec<Pattern>> {
    match &handler.subscription {
        // Its ticks are its own.
        _ if handler.schedule.is_some() => Ok(Vec::new()),
        Subscription::All => Ok(vec![Pattern::new("#")?]),
        Subscription::Patterns(patterns) => Ok(patterns.clone()),
        Subscription::Types(types) => {
            let names = types.iter().flat_map(|event| {
                std::iter::once(event.type_name).chain(event.aliases.iter().copied())
            });
            names
                .filter(|name| !is_control(name))
                .map(literal)
                .collect()
        }
    }
}
