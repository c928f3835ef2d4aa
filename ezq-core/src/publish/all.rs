//! Publishing several events in one round trip, and what it says where one of them is refused.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{Instrument, debug_span};

use crate::engine::{Due, Engine};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::message::headers;
use crate::message::queue_name::QueueName;
use crate::publish::builder::{PublishOptions, publish_options};
use crate::publish::publisher::{Draft, Prepared, Published, Publisher};

/// How many failures an error names at most.
const NAMED: usize = 3;

/// Several events about to be published; await it, or ask for the [outcomes](Self::outcomes).
#[derive(Debug)]
#[must_use = "events are published only when this is awaited"]
pub struct PublishAll {
    pub(crate) publisher: Publisher,
    pub(crate) drafts: Vec<Result<Draft>>,
    pub(crate) options: Result<PublishOptions>,
}

impl PublishAll {
    publish_options!();

    /// To a queue, in place of what routes, the type or the application say.
    pub fn queue(self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
        self.with(|options| {
            options.queue = Some(queue.try_into()?);
            Ok(())
        })
    }

    fn prepare(self) -> Result<Vec<Result<Prepared>>> {
        let options = self.options?;
        let prepare = |draft: Result<Draft>| {
            let prepared = self.publisher.prepare(draft?, &options)?;
            prepared.tell(&self.publisher.services.notices);
            Ok(prepared)
        };
        Ok(self.drafts.into_iter().map(prepare).collect())
    }

    /// The messages, with the engine that keeps their queues: for an extension that stores them in a
    /// transaction of the caller's. [`Prepared::published`] turns the engine's answers into results,
    /// and [`PublishAllError::unless_all`] these into the result of all.
    ///
    /// # Errors
    /// If an option is invalid, and [`ErrorKind::Unsupported`] if the application's own engine is no
    /// `E`. The inner errors are those of [`Publish::prepare_for`](crate::Publish::prepare_for).
    pub fn prepare_for<E: Engine + Clone>(self) -> Result<(E, Vec<Result<Prepared>>)> {
        let services = Arc::clone(&self.publisher.services);
        let engine = services.engines.own::<E>()?.clone();

        let checked = self.prepare()?.into_iter().map(|prepared| {
            let prepared = prepared?;
            services.engines.check_own(&prepared.outgoing.queue)?;
            Ok(prepared)
        });
        Ok((engine, checked.collect()))
    }

    /// Publishes the events; one outcome each, in their order. One that is refused harms no other.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Paid { order: i64 }
    /// # impl ezq_core::Event for Paid { const TYPE: &'static str = "paid"; }
    /// # async fn example(publisher: ezq_core::Publisher, paid: Vec<Paid>) -> ezq_core::Result<()> {
    /// for (event, outcome) in paid.iter().zip(publisher.publish_all(&paid).outcomes().await?) {
    ///     if let Err(why) = outcome {
    ///         eprintln!("order {} is not published: {why}", event.order);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When an option is invalid, or no event is known to be stored.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open which events are stored.
    pub async fn outcomes(self) -> Result<Vec<Result<Published>>> {
        let publisher = self.publisher.clone();
        let mut ready = Vec::new();
        let mut places = Vec::new();
        for prepared in self.prepare()? {
            places.push(prepared.map(|prepared| ready.push(prepared)));
        }
        let mut stored = Vec::new().into_iter();
        if !ready.is_empty() {
            let span = debug_span!("ezq.publish", count = ready.len());
            stored = publisher.store(ready).instrument(span).await?.into_iter();
        }
        let lost = || Error::new(ErrorKind::Engine, "the engine gave too few outcomes");
        let result =
            |place: Result<()>| place.and_then(|()| stored.next().unwrap_or_else(|| Err(lost())));
        Ok(places.into_iter().map(result).collect())
    }

    async fn all(self) -> Result<Vec<Published>, PublishAllError> {
        let outcomes = self.outcomes().await.map_err(PublishAllError::Whole)?;
        PublishAllError::unless_all(outcomes)
    }
}

impl IntoFuture for PublishAll {
    type Output = Result<Vec<Published>, PublishAllError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.all())
    }
}

/// Not all of several events were published. Where some were, they are told here: publishing all of
/// them again would store those twice, unless they have [dedupe keys](crate::Publish::dedupe_key).
///
/// `?` turns it into an [`Error`], of the kind of the first failure where nothing was stored, and
/// else of [`ErrorKind::PartlyPublished`], with this as its source.
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

    /// The events that are stored, or will be when a handler's transaction commits.
    pub fn stored(&self) -> impl Iterator<Item = &Published> {
        self.outcomes().iter().flatten()
    }

    /// The events that are not published: the place of each among all, from 0, and why.
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

/// What it says of single events is in its own text.
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
