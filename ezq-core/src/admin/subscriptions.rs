//! Subscriptions: which queues get copies of which broadcast events. Consumers add them; operators list
//! and remove them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;

use super::recorded::{RecordedAct, recorded, unless_absent};
use crate::engine::{
    AuditAction, AuditEntry, Broadcasts, Engine, EventParty, EventRole, QueueSubscription,
    Signature,
};
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

    /// Subscribes a queue when awaited, for this application, to the event types that match a pattern.
    /// Returns whether the subscription is new. The queue's consumer need not be one of ezq's.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidQueueName`] or [`ErrorKind::InvalidPattern`] for a wrong argument.
    /// - [`ErrorKind::Unsupported`] for a queue that a named engine keeps.
    /// - Otherwise when the store could not be written.
    pub fn add(
        &self,
        queue: impl IntoQueueName,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> RecordedAct<'a, bool> {
        let subscriptions = *self;
        let one = Self::one(queue, pattern).and_then(|one| {
            let engines = &self.inner.services.engines;
            engines.check_broadcast(&one.0)?;
            Ok(one)
        });
        self.change(AuditAction::Subscribe, one, move |app, one| async move {
            let (queue, pattern) = one;
            let added = subscriptions
                .store
                .subscribe(app, &queue, &[pattern])
                .await?;
            Ok(added > 0)
        })
    }

    /// Removes a subscription of this application when awaited. Returns whether there was one. A subscription
    /// of the same queue by another application stays.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidQueueName`] or [`ErrorKind::InvalidPattern`] for a wrong argument; otherwise
    /// when the store could not be written.
    pub fn remove(
        &self,
        queue: impl IntoQueueName,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> RecordedAct<'a, bool> {
        let subscriptions = *self;
        let one = Self::one(queue, pattern);
        self.change(AuditAction::Unsubscribe, one, move |app, one| async move {
            let removed = subscriptions.store.unsubscribe(app, &[one]).await?;
            Ok(removed > 0)
        })
    }

    fn one(
        queue: impl IntoQueueName,
        pattern: impl TryInto<Pattern, Error = Error>,
    ) -> Result<(QueueName, Pattern)> {
        Ok((queue.into_queue_name()?, pattern.try_into()?))
    }

    /// A change of one subscription of this application.
    fn change<F>(
        &self,
        action: AuditAction,
        one: Result<(QueueName, Pattern)>,
        change: impl FnOnce(&'a str, (QueueName, Pattern)) -> F + Send + 'a,
    ) -> RecordedAct<'a, bool>
    where
        F: Future<Output = Result<bool>> + Send + 'a,
    {
        let subscriptions = *self;
        let app = self.inner.config.app.as_str();
        // A wrong argument is told when this is awaited, as of every request.
        let entry = one.as_ref().map(|(queue, pattern)| AuditEntry {
            queue: Some(queue.clone()),
            subject: Some(pattern.to_string()),
            ..self.entry(action, app)
        });
        let entry = entry.map_err(Error::without_source);
        RecordedAct::new(entry, move |entry| async move {
            let change = change(app, one?);
            recorded(subscriptions.engine(), entry, change, unless_absent).await
        })
    }

    /// An entry of the audit trail about an application. The engine sets its time.
    fn entry(&self, action: AuditAction, app: &str) -> AuditEntry {
        let signature = Signature::new(&self.inner.config.app);
        AuditEntry {
            application: Some(app.to_owned()),
            ..AuditEntry::new(DateTime::UNIX_EPOCH, signature, action, None)
        }
    }

    fn engine(&self) -> &'a dyn Engine {
        &*self.inner.services.engines.default
    }

    /// Removes all subscriptions of an application when awaited, such as one that was shut down for good,
    /// and what it declared to [own](crate::app::AppBuilder::owns) and to
    /// [publish](crate::app::AppBuilder::publishes). Returns how many of both there were.
    ///
    /// # Errors
    /// When the store could not be written.
    pub fn remove_app(&self, app: impl Into<String>) -> RecordedAct<'a, u64> {
        let subscriptions = *self;
        let app = app.into();
        let entry = self.entry(AuditAction::Prune, &app);
        RecordedAct::new(Ok(entry), move |entry| async move {
            let what = Surplus {
                parties: subscriptions.store.parties_of(&app).await?,
                subscriptions: subscriptions.of_app(&app).await?,
            };
            subscriptions.remove_surplus(&app, what, entry).await
        })
    }

    /// Removes what an application declared about one event type, when awaited: to
    /// [own](crate::app::AppBuilder::owns) or to [publish](crate::app::AppBuilder::publishes) it.
    /// Returns whether it had declared anything. If its code still declares it, its next start
    /// records it again.
    ///
    /// # Errors
    /// When the store could not be written.
    pub fn forget(
        &self,
        app: impl Into<String>,
        event_type: impl Into<String>,
    ) -> RecordedAct<'a, bool> {
        let subscriptions = *self;
        let app = app.into();
        let event_type = event_type.into();
        let entry = AuditEntry {
            subject: Some(event_type.clone()),
            ..self.entry(AuditAction::Forget, &app)
        };
        RecordedAct::new(Ok(entry), move |entry| async move {
            let mut parties = subscriptions.store.parties_of(&app).await?;
            // It may have declared both roles of the type.
            parties.retain(|party| party.event_type == event_type);
            let what = Surplus {
                parties,
                subscriptions: Vec::new(),
            };
            Ok(subscriptions.remove_surplus(&app, what, entry).await? > 0)
        })
    }

    /// Removes, when awaited, what this application's code no longer has: subscriptions that its handlers in
    /// these queues do not need, and declarations about event types. Returns how many of both there were.
    ///
    /// Call it once a deployment is complete, with every queue that the application consumes. Then the
    /// subscriptions that stay are those that its consumers add when they start.
    ///
    /// # Errors
    /// When the store could not be written.
    pub fn prune<Q: IntoQueueName>(
        &self,
        queues: impl IntoIterator<Item = Q>,
    ) -> RecordedAct<'a, u64> {
        let subscriptions = *self;
        let app = self.inner.config.app.as_str();
        let wanted = self.wanted(queues);
        let entry = self.entry(AuditAction::Prune, app);
        RecordedAct::new(Ok(entry), move |entry| async move {
            let wanted = wanted?;
            let declared = subscriptions.inner.declared_parties();
            let mut parties = subscriptions.store.parties_of(app).await?;
            parties.retain(|party| !declared.contains(party));
            let mut own = subscriptions.of_app(app).await?;
            // What a handler needs would come back with the next start of its consumer.
            own.retain(|(queue, pattern)| {
                let patterns = wanted.get(queue);
                !patterns.is_some_and(|patterns| patterns.contains(pattern))
            });
            let what = Surplus {
                parties,
                subscriptions: own,
            };
            subscriptions.remove_surplus(app, what, entry).await
        })
    }

    /// The patterns to which queues must be subscribed.
    fn wanted<Q: IntoQueueName>(
        &self,
        queues: impl IntoIterator<Item = Q>,
    ) -> Result<BTreeMap<QueueName, BTreeSet<Pattern>>> {
        let mut wanted = BTreeMap::new();
        for queue in queues {
            let queue = queue.into_queue_name()?;
            let patterns = self.inner.patterns(&queue)?;
            wanted.insert(queue, patterns);
        }
        Ok(wanted)
    }

    /// The subscriptions of an application.
    async fn of_app(&self, app: &str) -> Result<Vec<(QueueName, Pattern)>> {
        let standing = self.list().await?.into_iter();
        let own = standing.filter(|one| one.app == app);
        Ok(own.map(|one| (one.queue, one.pattern)).collect())
    }

    /// Removes subscriptions and declarations of an application. Returns how many there were.
    async fn remove_surplus(&self, app: &str, what: Surplus, entry: AuditEntry) -> Result<u64> {
        // Nothing to remove is the usual case at a deployment, and needs no write.
        if what.parties.is_empty() && what.subscriptions.is_empty() {
            return Ok(0);
        }

        let remove = async {
            let mut removed = 0;
            // Declarations first. If the second step fails, a retry removes the rest.
            if !what.parties.is_empty() {
                removed += self.store.forget(&what.parties).await?;
            }
            if !what.subscriptions.is_empty() {
                removed += self.store.unsubscribe(app, &what.subscriptions).await?;
            }
            Ok(removed)
        };
        recorded(self.engine(), entry, remove, |removed| Some(*removed)).await
    }
}

/// What an application no longer has, or no longer should have.
struct Surplus {
    parties: Vec<EventParty>,
    subscriptions: Vec<(QueueName, Pattern)>,
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
