//! Publishing several events in one round trip, and the error that says which were refused.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, Engine};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::event::Event;
use crate::message::headers;
use crate::message::queue_name::IntoQueueName;
use crate::publish::builder::{IntoPublish, Publish};
use crate::publish::draft::Draft;
use crate::publish::options::{PublishOptions, publish_options, queue_option};
use crate::publish::prepared::Prepared;
use crate::publish::published::Published;
use crate::publish::publisher::Publisher;
use crate::publish::traced::Traced;

/// The most failures that an error names.
const NAMED: usize = 3;

impl Publisher {
    /// Publishes events in one round trip, in their order.
    ///
    /// An event that cannot be stored harms no other. The error then names it and holds what was stored;
    /// [`outcomes`](PublishAll::outcomes) gives one result for each event instead.
    ///
    /// # Errors
    /// When awaited: [`PublishAllError`] if not all of them are published.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open which events are stored.
    pub fn publish_all<'e, E: Event>(&self, events: impl IntoIterator<Item = &'e E>) -> PublishAll {
        PublishAll {
            publisher: self.clone(),
            items: events.into_iter().map(Item::of).collect(),
            options: Ok(PublishOptions::default()),
        }
    }

    /// Publishes events of any types in one round trip, in the order in which they are
    /// [added](PublishAll::add).
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::event::Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Reminder;
    /// # impl ezq_core::event::Event for Reminder { const TYPE: &'static str = "reminder"; }
    /// use ezq_core::testing::TestApp;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app)?;
    /// let tomorrow = Duration::from_secs(24 * 3600);
    /// let published = app
    ///     .publish_many()
    ///     .add(&Paid { order: 7 })
    ///     .add(app.publish(&Reminder).queue("mail").after(tomorrow))
    ///     .await?;
    /// assert_eq!(published[1].queue.as_str(), "mail");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`publish_all`](Self::publish_all).
    ///
    /// # Cancel safety
    /// As [`publish_all`](Self::publish_all).
    pub fn publish_many(&self) -> PublishAll {
        PublishAll {
            publisher: self.clone(),
            items: Vec::new(),
            options: Ok(PublishOptions::default()),
        }
    }
}

/// One event, with the options that were set for it alone.
#[derive(Debug)]
struct Item {
    draft: Result<Draft>,
    options: Result<PublishOptions>,
}

impl Item {
    fn of<E: Event>(event: &E) -> Self {
        Self {
            draft: Draft::of(event),
            options: Ok(PublishOptions::default()),
        }
    }
}

/// Stores several events when awaited, and says where: a [`Published`] for each, in their order.
///
/// The methods set options, which apply to each event that has none of its own. Ask for the [outcomes](Self::outcomes) instead
/// of awaiting it to get one result for each event. On PGMQ, `within` (of the trait `PublishWithin`)
/// stores the events in the caller's transaction.
///
/// # Errors
/// [`PublishAllError`] if not all of them are published.
///
/// # Cancel safety
/// As [`Publisher::publish_all`].
#[derive(Debug)]
#[must_use = "events are published only when this is awaited"]
pub struct PublishAll {
    publisher: Publisher,
    items: Vec<Item>,
    options: Result<PublishOptions>,
}

impl PublishAll {
    publish_options!();

    queue_option! {
        /// Sets the queue of all events. Defaults, for each event, to the queue of its type, as
        /// [`Publish::queue`](crate::publish::Publish::queue).
    }

    /// Adds an event of any type, after those that are there: `&event`, an
    /// [`Envelope`](crate::event::Envelope), or an event with options of its own, as
    /// [`publish`](crate::app::App::publish) returns it. Its own options take precedence over those of
    /// all events.
    #[expect(clippy::should_implement_trait, reason = "`+` would say less")]
    pub fn add(mut self, event: impl IntoPublish) -> Self {
        let Publish { draft, options, .. } = event.into_publish(&self.publisher);
        self.items.push(Item { draft, options });
        self
    }

    /// Publishes the events and gives one outcome for each, in their order. One that is refused harms
    /// no other.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::event::Event for Paid { const TYPE: &'static str = "paid"; }
    /// # async fn example(publisher: ezq_core::publish::Publisher, paid: Vec<Paid>) -> ezq_core::Result<()> {
    /// for (event, outcome) in paid.iter().zip(publisher.publish_all(&paid).outcomes().await?) {
    ///     if let Err(why) = outcome {
    ///         eprintln!("order {} is not published: {why}", event.order);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If an option is invalid, or if no event is known to be stored.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open which events are stored.
    pub async fn outcomes(self) -> Result<Vec<Result<Published>>> {
        let publisher = self.publisher;
        let options = self.options?;
        let mut items = self.items;
        let traced = trace(&publisher, &mut items, &options);
        let outcomes = store(&publisher, items, &options).await;
        traced.end_all(outcomes.as_deref());
        outcomes
    }

    /// The messages, with the engine that keeps their queues: for an extension that stores them in a
    /// transaction of the caller's. [`Prepared::published`] turns the engine's answers into results,
    /// and [`PublishAllError::unless_all`] these into the result of all.
    ///
    /// # Errors
    /// If an option is invalid, and [`ErrorKind::Unsupported`] if the application's own engine is
    /// no `E`. The inner errors are those of
    /// [`Publish::prepare_for`](crate::publish::Publish::prepare_for).
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, Vec<Result<Prepared>>)> {
        let engines = &self.publisher.services.engines;
        let engine = engines.own::<E>()?.clone();

        let options = self.options?;
        let mut items = self.items;
        let traced = trace(&self.publisher, &mut items, &options);
        let prepared = prepare(&self.publisher, items, &options);
        traced.end_with(None, prepared.iter().find_map(|one| one.as_ref().err()));

        let checked = prepared.into_iter().map(|prepared| {
            let prepared = prepared?;
            engines.check_own(&prepared.outgoing.queue)?;
            Ok(prepared)
        });
        Ok((engine, checked.collect()))
    }

    async fn all(self) -> Result<Vec<Published>, PublishAllError> {
        let outcomes = self.outcomes().await.map_err(PublishAllError::Whole)?;
        PublishAllError::unless_all(outcomes)
    }
}

/// Begins the span of a call that publishes events.
fn trace(publisher: &Publisher, items: &mut [Item], options: &PublishOptions) -> Traced {
    let drafts = items.iter_mut().filter_map(|Item { draft, options }| {
        let draft = draft.as_mut().ok()?;
        Some((draft, options.as_ref()))
    });
    publisher.trace_all(drafts, options)
}

/// Stores events, one result each.
async fn store(
    publisher: &Publisher,
    items: Vec<Item>,
    options: &PublishOptions,
) -> Result<Vec<Result<Published>>> {
    let prepared = prepare(publisher, items, options);

    // An event that is refused already keeps its place among the outcomes.
    let mut ready = Vec::new();
    let mut places = Vec::new();
    for prepared in prepared {
        places.push(prepared.map(|prepared| ready.push(prepared)));
    }

    let mut stored = Vec::new().into_iter();
    if !ready.is_empty() {
        let span = debug_span!("ezq.publish", count = ready.len());
        stored = publisher.store(ready).instrument(span).await?.into_iter();
    }

    let outcomes = places.into_iter().map(|place| {
        place?;
        stored.next().unwrap_or_else(|| {
            let text = "the engine returned too few outcomes";
            Err(Error::new(ErrorKind::Engine, text))
        })
    });
    Ok(outcomes.collect())
}

/// Writes events, one result each, and tells hooks of those that are about to be stored.
fn prepare(
    publisher: &Publisher,
    items: Vec<Item>,
    options: &PublishOptions,
) -> Vec<Result<Prepared>> {
    let prepared = items.into_iter().map(
        |Item {
             draft,
             options: own,
         }| {
            let prepared = publisher.prepare(draft?, &own?.or(options))?;
            prepared.announce(&publisher.services.notices);
            Ok(prepared)
        },
    );
    prepared.collect()
}

impl IntoFuture for PublishAll {
    type Output = Result<Vec<Published>, PublishAllError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.all())
    }
}

/// Not all of several events were published. It holds what was stored: publishing all of them again
/// would store those twice, so publish the [failures](Self::failures) again.
///
/// `?` turns it into an [`Error`] with this as its source. Its kind is [`ErrorKind::PartlyPublished`] if
/// an event was stored, and else that of the first failure.
#[derive(Debug)]
#[non_exhaustive]
pub enum PublishAllError {
    /// No event is known to be stored.
    Whole(Error),
    /// One outcome for each event, in their order; at least one of them is an error.
    Events(Vec<Result<Published>>),
}

impl PublishAllError {
    /// The events' places if all of them are published.
    ///
    /// # Errors
    /// [`PublishAllError::Events`] with all outcomes if one of them is an error.
    pub fn unless_all(outcomes: Vec<Result<Published>>) -> Result<Vec<Published>, Self> {
        if outcomes.iter().any(Result::is_err) {
            return Err(Self::Events(outcomes));
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// The kind of the first failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.first().map_or(ErrorKind::Engine, Error::kind)
    }

    /// The events that are stored, or that will be when a transaction commits that holds them.
    pub fn stored(&self) -> impl Iterator<Item = &Published> {
        self.outcomes().iter().flatten()
    }

    /// The events that are not published: the index of each among all, from 0, and its error.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        let outcomes = self.outcomes().iter().enumerate();
        outcomes.filter_map(|(index, outcome)| Some((index, outcome.as_ref().err()?)))
    }

    fn outcomes(&self) -> &[Result<Published>] {
        match self {
            Self::Whole(_) => &[],
            Self::Events(outcomes) => outcomes,
        }
    }

    fn first(&self) -> Option<&Error> {
        match self {
            Self::Whole(error) => Some(error),
            Self::Events(_) => self.failures().next().map(|(_, error)| error),
        }
    }
}

impl fmt::Display for PublishAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes = match self {
            Self::Whole(error) => return error.fmt(f),
            Self::Events(outcomes) => outcomes,
        };

        let failed = self.failures().count();
        write!(f, "{failed} of {} events are not published", outcomes.len())?;
        for (index, error) in self.failures().take(NAMED) {
            write!(f, "; the one at {index}: {}", error_chain(error))?;
        }
        if failed > NAMED {
            f.write_str("; and more")
        } else {
            Ok(())
        }
    }
}

/// The errors of single events are part of its text, so they are no source as well.
impl StdError for PublishAllError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Whole(error) => error.source(),
            Self::Events(_) => None,
        }
    }
}

impl From<PublishAllError> for Error {
    fn from(failure: PublishAllError) -> Self {
        if let PublishAllError::Whole(error) = failure {
            return error;
        }

        let is_any_stored = failure.stored().next().is_some();
        let kind = if is_any_stored {
            ErrorKind::PartlyPublished
        } else {
            failure.kind()
        };
        Self::new(kind, failure.to_string()).with_source(failure)
    }
}
