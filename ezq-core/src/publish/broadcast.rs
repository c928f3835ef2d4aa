//! Broadcasting: an event goes to every queue that is subscribed to its type.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{BroadcastMessage, Due, Engine, PublishOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::Envelope;
use crate::event::{Event, is_control};
use crate::logging::warn;
use crate::message::headers;
use crate::message::queue_name::QueueName;
use crate::publish::builder::{PublishOptions, publish_options};
use crate::publish::publisher::{Draft, Published, Publisher};

/// One event about to be broadcast; await it.
#[derive(Debug)]
#[must_use = "an event is broadcast only when this is awaited"]
pub struct Broadcast {
    publisher: Publisher,
    draft: Result<Draft>,
    options: Result<PublishOptions>,
}

/// Where the copies of a broadcast event are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcasted {
    /// The event's id, the same for every copy.
    pub event_id: String,
    /// The copies, one for each subscribed queue, by queue; none where nobody is subscribed. With it
    /// a scheduled copy can be cancelled or moved.
    pub copies: Vec<Published>,
    /// Subscribed queues that do not exist, and so got no copy: create them, or remove their
    /// [subscriptions](crate::Subscriptions).
    pub missing: Vec<QueueName>,
    /// Whether it was broadcast in a handler's transaction: who is subscribed is asked, and the
    /// copies are stored, when that commits, so none is known here.
    pub is_pending: bool,
}

impl Broadcasted {
    /// Whether no queue got a copy: nobody is subscribed to the type, or no subscribed queue exists.
    /// Of one that is [pending](Self::is_pending) that is not known yet.
    #[must_use]
    pub fn reached_nobody(&self) -> bool {
        self.copies.is_empty() && !self.is_pending
    }
}

/// Warns that nobody is subscribed to a type, once for each: it may be meant, and is easily meant not.
pub fn warn_of_nobody(event_type: &str) {
    /// How many types are remembered; the names may be anyone's.
    const MOST: usize = 1000;
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = told.len() < MOST && told.insert(event_type.to_owned());
    drop(told);
    if is_new {
        warn!(
            event_type,
            "an event was broadcast to nobody: no queue is subscribed to its type. A consumer \
             subscribes its queue by `.subscribe()`"
        );
    }
}

/// A broadcast ready to be stored, for those who store it in a transaction of their own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PreparedBroadcast {
    /// The event.
    pub message: BroadcastMessage,
    /// The event's id.
    pub event_id: String,
}

impl PreparedBroadcast {
    /// What to answer once an engine said what became of each copy. A queue that does not exist is
    /// told and logged.
    ///
    /// # Errors
    /// What else kept a copy from being stored.
    pub fn broadcasted(self, copies: Vec<(QueueName, PublishOutcome)>) -> Result<Broadcasted> {
        let Self { message, event_id } = self;
        let mut done = Broadcasted {
            event_id: event_id.clone(),
            copies: Vec::new(),
            missing: Vec::new(),
            is_pending: false,
        };
        if copies.is_empty() {
            warn_of_nobody(&message.event_type);
        }
        for (queue, outcome) in copies {
            match outcome {
                PublishOutcome::Failed(error) if error.kind() == ErrorKind::QueueMissing => {
                    let event_type = &message.event_type;
                    warn!(
                        %queue, event_type, event_id,
                        "a subscribed queue does not exist: it gets no copy. Create it, or remove \
                         its subscriptions"
                    );
                    done.missing.push(queue);
                }
                outcome => {
                    let names = (event_id.clone(), message.event_type.clone());
                    let copy = Published::of(queue, names, Some(outcome))?;
                    done.copies.push(copy);
                }
            }
        }
        Ok(done)
    }
}

impl Broadcast {
    publish_options!();

    /// Each queue stores one copy of what is broadcast under this key within the
    /// [window](crate::Config::dedupe_window); see [`Publish::dedupe_key`](crate::Publish::dedupe_key). A copy
    /// that its queue stored before is a [duplicate](Published::is_duplicate).
    pub fn dedupe_key(self, key: impl Into<String>) -> Self {
        self.with(|options| {
            options.dedupe_key = Some(key.into());
            Ok(())
        })
    }

    /// For how long the [dedupe key](Self::dedupe_key) is taken, in place of
    /// [`Config::dedupe_window`](crate::Config::dedupe_window); more than nothing.
    pub fn dedupe_window(self, window: Duration) -> Self {
        self.with(|options| {
            options.dedupe_window = Some(window);
            Ok(())
        })
    }

    /// The event, with the engine that keeps the subscriptions: for an extension that stores the
    /// copies in a transaction of the caller's. [`PreparedBroadcast::broadcasted`] turns the engine's
    /// answer into the result.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`], [`ErrorKind::InvalidEvent`] or [`ErrorKind::TooLarge`] if the event or an
    /// option is invalid. [`ErrorKind::Unsupported`] for an option that the engine lacks, and if the
    /// application's own engine is no `E`.
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, PreparedBroadcast)> {
        let services = Arc::clone(&self.publisher.services);
        let prepared = self.prepare()?;
        Ok((services.engines.own::<E>()?.clone(), prepared))
    }

    fn prepare(self) -> Result<PreparedBroadcast> {
        let options = self.options?;
        let written = self.publisher.write(self.draft?, &options, None)?;
        if is_control(&written.event_type) {
            let text = "a control event stops a consumer: publish it to that one's queue";
            return Err(Error::new(ErrorKind::InvalidEvent, text));
        }
        let message = BroadcastMessage {
            event_type: written.event_type,
            body: written.body,
            headers: written.headers,
            due: options.due,
            dedupe: written.dedupe,
        };
        Ok(PreparedBroadcast {
            message,
            event_id: written.event_id,
        })
    }

    async fn send(self) -> Result<Broadcasted> {
        let publisher = self.publisher.clone();
        let prepared = self.prepare()?;
        let event_type = prepared.message.event_type.clone();
        let span = debug_span!("ezq.broadcast", event_id = %prepared.event_id, %event_type);
        let sent = async {
            let services = &publisher.services;
            if let Some(transaction) = &publisher.transaction {
                transaction.broadcast(services, prepared.message).await?;
                let (copies, missing) = (Vec::new(), Vec::new());
                let event_id = prepared.event_id;
                return Ok(Broadcasted {
                    event_id,
                    copies,
                    missing,
                    is_pending: true,
                });
            }
            let store = services.engines.broadcasts()?;
            let copies = store.broadcast(prepared.message.clone()).await?;
            let done = prepared.broadcasted(copies)?;
            let names = (done.event_id.as_str(), event_type.as_str());
            for copy in &done.copies {
                services
                    .notices
                    .published(&copy.queue, names, Ok(copy.stored()));
            }
            for queue in &done.missing {
                let text = format!("the subscribed queue `{queue}` does not exist");
                let error = Error::new(ErrorKind::QueueMissing, text);
                services.notices.published(queue, names, Err(&error));
            }
            Ok(done)
        };
        sent.instrument(span).await
    }
}

impl IntoFuture for Broadcast {
    type Output = Result<Broadcasted>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Publisher {
    /// Broadcasts an event: a copy goes to every queue that is subscribed to its type, of whichever
    /// application, all of them in one step. Nobody has to be subscribed. Inside a handler with a
    /// transaction it goes out with that.
    ///
    /// Subscriptions are kept by the application's own engine, and so are the queues that get copies.
    /// All copies are written alike: by the codec of the event's type, else in the application's wire
    /// form, whatever a queue's codec is. So a queue whose codec is
    /// [exclusive](crate::Codec::is_exclusive) takes a copy only of types that are given that codec,
    /// by [`event_codec`](crate::AppBuilder::event_codec) where they are broadcast or in their own
    /// attribute.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// use ezq_core::{Engine, QueueName};
    /// use ezq_core::testing::TestApp;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app)?;
    /// let mail = QueueName::new("mail")?;
    /// app.engine().ensure_queue(&mail).await?;
    /// app.subscriptions()?.add(&mail, "order.*").await?;
    /// let sent = app.broadcast(&Paid { order: 7 }).await?;
    /// assert_eq!(sent.copies[0].queue, mail);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When awaited: as [`publish`](Self::publish), [`ErrorKind::InvalidEvent`] for a control event
    /// too; [`ErrorKind::Unsupported`] when the engine does not broadcast.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open whether the copies are stored; all of them
    /// are, or none.
    pub fn broadcast<E: Event>(&self, event: &E) -> Broadcast {
        self.to_broadcast(Draft::of(event))
    }

    /// Broadcasts an event whose type and data are known only at run time: another application's,
    /// for instance.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_envelope(&self, envelope: Envelope) -> Broadcast {
        self.to_broadcast(Ok(Draft::from(envelope)))
    }

    fn to_broadcast(&self, draft: Result<Draft>) -> Broadcast {
        Broadcast {
            publisher: self.clone(),
            draft,
            options: Ok(PublishOptions::default()),
        }
    }
}
