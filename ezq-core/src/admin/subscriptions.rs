//! Subscriptions: which queues get copies of which broadcast events. Consumers add them; operators list
//! and remove them.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Broadcasts, EventParty, EventRole, QueueSubscription};
use crate::error::{Error, ErrorKind, Result};
use crate::event::is_control;
use crate::event::pattern::Pattern;
use crate::handler::{Handler, Subscription};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::shared::Shared;

/// The subscriptions of all applications that share a store. Get it by
/// [`App::subscriptions`](crate::app::App::subscriptions).
///
/// A change applies from the next broadcast on, by any publisher, without a restart. Consumers that
/// [subscribe](crate::consumer::Consumer::subscribe) only add subscriptions. So a removal lasts
/// until a consumer starts whose handlers need the same subscription.
#[derive(Clone, Copy)]
pub struct Subscriptions<'a> {
    store: &'a dyn Broadcasts,
    inner: &'a Shared,
}

/// A queue that would get a copy of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recipient {
    /// The queue. It gets one copy, however many subscriptions match.
    pub queue: QueueName,
    /// Whether the queue exists. If not, it gets no copy, and the publisher is told so.
    pub exists: bool,
    /// The subscriptions that match.
    pub subscriptions: Vec<QueueSubscription>,
}

/// The applications that own, publish and handle an event type, as far as they declared it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventParties {
    /// The applications that [own](crate::app::AppBuilder::owns) the type. If there is more than
    /// one, they disagree.
    pub owners: Vec<String>,
    /// The applications that [publish](crate::app::AppBuilder::publishes) the type, including its
    /// owners.
    pub publishers: Vec<String>,
    /// The queues that get copies of broadcast events of the type, with the applications that
    /// subscribed them.
    pub recipients: Vec<Recipient>,
}

impl<'a> Subscriptions<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Result<Self> {
        Ok(Self {
            store: inner.services.engines.broadcasts()?,
            inner,
        })
    }

    /// Every subscription of every application, sorted by queue, pattern and application.
    ///
    /// # Errors
    /// When the store could not be read.
    pub async fn list(&self) -> Result<Vec<QueueSubscription>> {
        self.store.subscriptions().await
    }

    /// The queues that would get a copy of an event of this type, with the subscriptions that match.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn test(&self, event_type: &str) -> Result<Vec<Recipient>> {
        let mut recipients = BTreeMap::<QueueName, Recipient>::new();

        for found in self.list().await? {
            if !found.pattern.matches(event_type) {
                continue;
            }
            let recipient = recipients
                .entry(found.queue.clone())
                .or_insert_with(|| Recipient {
                    queue: found.queue.clone(),
                    exists: found.queue_exists,
                    subscriptions: Vec::new(),
                });
            recipient.subscriptions.push(found);
        }

        Ok(recipients.into_values().collect())
    }

    /// The applications that own and publish an event type, as they declared it where they were built,
    /// and the queues that are subscribed to it.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn parties(&self, event_type: &str) -> Result<EventParties> {
        let declared = self.store.parties(event_type).await?;
        let with = |role: EventRole| {
            let of_role = declared.iter().filter(move |party| party.role == role);
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

    /// Subscribes a queue, for this application, to the event types that match a pattern. Returns whether
    /// the subscription is new. The queue's consumer need not be one of ezq's.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidQueueName`] or [`ErrorKind::InvalidPattern`] for a wrong argument.
    /// - [`ErrorKind::Unsupported`] for a queue that a named engine keeps.
    /// - Otherwise when the store could not be written.
    pub async fn add(
        &self,
        queue: impl IntoQueueName,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> Result<bool> {
        let queue = queue.into_queue_name()?;
        let pattern = pattern.try_into()?;
        self.inner.services.engines.check_broadcast(&queue)?;

        let app = &self.inner.config.app;
        let added = self.store.subscribe(app, &queue, &[pattern]).await?;
        Ok(added > 0)
    }

    /// Removes a subscription of this application. Returns whether there was one. A subscription of the
    /// same queue by another application stays.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] or [`ErrorKind::InvalidPattern`] for a wrong argument; otherwise
    /// when the store could not be written.
    pub async fn remove(
        &self,
        queue: impl IntoQueueName,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> Result<bool> {
        let one = (queue.into_queue_name()?, pattern.try_into()?);
        let app = &self.inner.config.app;
        let removed = self.store.unsubscribe(app, &[one]).await?;
        Ok(removed > 0)
    }

    /// Removes all subscriptions of an application, such as one that was shut down for good, and
    /// what it declared to [own](crate::app::AppBuilder::owns) and to
    /// [publish](crate::app::AppBuilder::publishes). Returns how many of both there were.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn remove_app(&self, app: &str) -> Result<u64> {
        // Declarations first. If the second step fails, a retry removes the rest.
        let forgotten = self.forget_unless(app, |_| false).await?;
        Ok(forgotten.saturating_add(self.remove_unless(app, |_| false).await?))
    }

    /// Removes what an application declared about one event type: to
    /// [own](crate::app::AppBuilder::owns) or to [publish](crate::app::AppBuilder::publishes) it.
    /// Returns whether it had declared anything. If its code still declares it, its next start
    /// records it again.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn forget(&self, app: &str, event_type: &str) -> Result<bool> {
        Ok(self
            .forget_unless(app, |party| party.event_type != event_type)
            .await?
            > 0)
    }

    /// Removes what this application's code no longer has: subscriptions that its handlers in these
    /// queues do not need, and declarations about event types. Returns how many of both there were.
    ///
    /// Call it once a deployment is complete, with every queue that the application consumes. Then the
    /// subscriptions that stay are those that its consumers add when they start.
    ///
    /// # Errors
    /// When the store could not be written.
    pub async fn prune<Q: IntoQueueName>(
        &self,
        queues: impl IntoIterator<Item = Q>,
    ) -> Result<u64> {
        let mut wanted = BTreeMap::new();
        for queue in queues {
            let queue = queue.into_queue_name()?;
            let patterns = self.inner.patterns(&queue)?;
            wanted.insert(queue, patterns);
        }

        let app = &self.inner.config.app;
        let declared = self.inner.declared_parties();
        let forgotten = self
            .forget_unless(app, |party| declared.contains(party))
            .await?;

        let removed = self
            .remove_unless(app, |one| {
                wanted
                    .get(&one.queue)
                    .is_some_and(|patterns| patterns.contains(&one.pattern))
            })
            .await?;
        Ok(forgotten.saturating_add(removed))
    }

    async fn forget_unless(&self, app: &str, stays: impl Fn(&EventParty) -> bool) -> Result<u64> {
        let mut goes = self.store.parties_of(app).await?;
        goes.retain(|party| !stays(party));
        // Nothing to remove is the usual case at a deployment, and needs no write.
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
    /// The patterns to which a queue must be subscribed for its handlers: the names and aliases of their
    /// event types, or the patterns of a handler of `AnyEvent`. Control events are left out: they are
    /// published to the queue itself.
    pub(crate) fn patterns(&self, queue: &QueueName) -> Result<BTreeSet<Pattern>> {
        let mut patterns = BTreeSet::new();
        for handler in self.dispatcher.registry.of(queue) {
            patterns.extend(patterns_of(handler)?);
        }
        Ok(patterns)
    }

    /// Records the roles that this application declares, if it declares any.
    pub(crate) async fn announce(&self) -> Result<()> {
        if self.parties.is_empty() {
            return Ok(());
        }
        self.services
            .engines
            .broadcasts()?
            .record(&self.declared_parties())
            .await
    }

    /// The roles that this application declares.
    fn declared_parties(&self) -> Vec<EventParty> {
        let parties = self.parties.iter().map(|(role, event_type)| EventParty {
            event_type: (*event_type).to_owned(),
            role: *role,
            app: self.config.app.clone(),
        });
        parties.collect()
    }
}

/// The pattern that matches one event type and no other.
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
        // The ticks of a schedule are published to the handler's queue, and not broadcast.
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
