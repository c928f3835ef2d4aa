//! The dead letters of one queue: listed, redriven or discarded, by id or by filter.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::acting::Order;
use super::recorded::Recorded;
use crate::codec::wire::plain_type;
use crate::engine::reader::Reader;
use crate::engine::{
    AuditAction, AuditEntry, DeadLetter, DeadLetters, Engine, EventFilter, EventRef, EventState,
    FailureKey,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, ReasonKind};
use crate::shared::Shared;

/// How many dead letters one call of the engine reads or moves at most.
const PAGE: usize = 100;

/// Selects dead letters: those that meet every condition that is set. Without a condition, all of them.
///
/// ```
/// use ezq_core::admin::DeadLetterFilter;
/// use ezq_core::message::ReasonKind;
///
/// let out_of_attempts = DeadLetterFilter::all().reason(ReasonKind::MaxAttempts).handler("mail");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    handler: Option<HandlerName>,
    event_type: Option<String>,
    reason: Option<ReasonKind>,
    failure: Option<FailureKey>,
    died_after: Option<DateTime<Utc>>,
    died_before: Option<DateTime<Utc>>,
}

impl DeadLetterFilter {
    /// Every dead letter.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those that this handler gave up.
    #[must_use]
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = Some(HandlerName::from(name));
        self
    }

    /// Only those of this event type.
    #[must_use]
    pub fn event_type(mut self, name: impl Into<String>) -> Self {
        self.event_type = Some(name.into());
        self
    }

    /// Only those that died for this reason.
    #[must_use]
    pub fn reason(mut self, kind: ReasonKind) -> Self {
        self.reason = Some(kind);
        self
    }

    /// Only those that died of this.
    #[must_use]
    pub fn failure(mut self, key: FailureKey) -> Self {
        self.failure = Some(key);
        self
    }

    /// Only those that died at this time or later, by the engine's clock.
    #[must_use]
    pub fn died_after(mut self, time: DateTime<Utc>) -> Self {
        self.died_after = Some(time);
        self
    }

    /// Only those that died before this time, by the engine's clock.
    #[must_use]
    pub fn died_before(mut self, time: DateTime<Utc>) -> Self {
        self.died_before = Some(time);
        self
    }

    fn fits(&self, letter: &DeadLetter) -> bool {
        let reason = letter.reason.as_ref();
        self.handler
            .as_ref()
            .is_none_or(|name| reason.is_some_and(|reason| reason.handler.as_ref() == Some(name)))
            && self
                .reason
                .is_none_or(|kind| reason.is_some_and(|reason| reason.kind == kind))
            && self.failure.as_ref().is_none_or(|key| {
                reason.is_some_and(|reason| key.is(reason.handler.as_ref(), &reason.error))
            })
            && self.died_after.is_none_or(|time| letter.died_at >= time)
            && self.died_before.is_none_or(|time| letter.died_at < time)
            // Last, because it parses the body.
            && self
                .event_type
                .as_ref()
                .is_none_or(|name| is_of_type(letter, name))
    }
}

impl From<&DeadLetterFilter> for EventFilter {
    /// The same, as far as it can be said of events.
    fn from(filter: &DeadLetterFilter) -> Self {
        let mut same = Self::all();
        same.died_by = filter.handler.clone();
        same.died_of = filter.reason;
        same.event_type = filter.event_type.clone();
        same.failure = filter.failure.clone();
        same
    }
}

/// Whether a dead letter is of an event type. A body that a codec wrote is not read: its type is in the
/// headers.
fn is_of_type(letter: &DeadLetter, name: &str) -> bool {
    let is_in_headers = letter.headers.text(headers::CE_TYPE) == Some(name);
    match letter.headers.text(headers::CODEC) {
        Some(_) => is_in_headers,
        None => is_in_headers || plain_type(&letter.body).is_some_and(|found| found == name),
    }
}

/// Dead letters, selected by id or by filter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DeadLetterSelection {
    /// The dead letters with these ids, as far as they exist.
    Ids(Vec<MessageId>),
    /// The dead letters that meet the filter.
    Filter(DeadLetterFilter),
}

impl From<DeadLetterFilter> for DeadLetterSelection {
    fn from(filter: DeadLetterFilter) -> Self {
        Self::Filter(filter)
    }
}

impl From<Vec<MessageId>> for DeadLetterSelection {
    fn from(ids: Vec<MessageId>) -> Self {
        Self::Ids(ids)
    }
}

impl From<&MessageId> for DeadLetterSelection {
    fn from(id: &MessageId) -> Self {
        Self::Ids(vec![id.clone()])
    }
}

/// The dead letters of one queue. Get it by [`App::dead_letters`](crate::app::App::dead_letters).
#[derive(Clone)]
pub struct DeadLetterQueue<'a> {
    order: Order<'a>,
    engine: &'a Arc<dyn Engine>,
    store: &'a dyn DeadLetters,
    queue: QueueName,
    reader: Reader,
}

impl<'a> DeadLetterQueue<'a> {
    pub(crate) fn new(
        inner: &'a Shared,
        (engine, store): (&'a Arc<dyn Engine>, &'a dyn DeadLetters),
        queue: QueueName,
        reader: Reader,
    ) -> Self {
        Self {
            order: Order::new(inner),
            engine,
            store,
            queue,
            reader,
        }
    }

    /// The oldest dead letters that meet the filter, at most `limit`. The store is read in pages, and
    /// dead letters that do not meet the filter are read too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self, filter: &DeadLetterFilter, limit: usize) -> Result<Vec<DeadLetter>> {
        self.list_after(None, filter, limit).await
    }

    /// The oldest dead letters behind one that meet the filter, at most `limit`: as
    /// [`list`](Self::list), page by page.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list_after(
        &self,
        after: Option<&MessageId>,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        self.each(after, filter, |letter| {
            found.push(self.readable(letter));
            found.len() < limit
        })
        .await?;
        found.truncate(limit);
        Ok(found)
    }

    /// One dead letter, or `None` if there is none of this id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, id: &MessageId) -> Result<Option<DeadLetter>> {
        let found = self.store.find(&self.queue, id).await?;
        Ok(found.map(|letter| self.readable(letter)))
    }

    /// Moves dead letters back to their queue when awaited, and returns the ids of those that were moved.
    /// Handlers that were done stay done; those that failed start with their first attempt.
    ///
    /// The event stays as it is. If the event itself is wrong, publish a corrected one, with a
    /// [dedupe key](crate::publish::Publish::dedupe_key) so that this may be repeated, and then
    /// [`discard`](Self::discard) the letter.
    ///
    /// ```no_run
    /// # async fn example(app: ezq_core::app::App) -> ezq_core::Result<()> {
    /// use ezq_core::admin::DeadLetterFilter;
    /// use ezq_core::message::QueueName;
    ///
    /// let letters = app.dead_letters(&QueueName::new("orders")?)?;
    /// let mail = DeadLetterFilter::all().handler("mail");
    /// println!("{} would run again", letters.redrive(mail.clone()).dry_run().await?.len());
    /// letters.redrive(mail).rate(50).await?;
    /// # Ok(()) }
    /// ```
    pub fn redrive(&self, which: impl Into<DeadLetterSelection>) -> DeadLetterAction<'a> {
        self.act(Action::Redrive, which.into())
    }

    /// Deletes dead letters when awaited, and returns the ids of those that were deleted.
    pub fn discard(&self, which: impl Into<DeadLetterSelection>) -> DeadLetterAction<'a> {
        self.act(Action::Discard, which.into())
    }

    /// A letter as the application's codecs read it.
    fn readable(&self, letter: DeadLetter) -> DeadLetter {
        DeadLetter {
            queue: self.queue.clone(),
            reader: self.reader.clone(),
            ..letter
        }
    }

    fn act(&self, action: Action, which: DeadLetterSelection) -> DeadLetterAction<'a> {
        DeadLetterAction {
            letters: self.clone(),
            action,
            which,
            rate: None,
            dry_run: false,
        }
    }

    /// Visits the dead letters behind one that meet a filter, oldest first, until `visit` returns `false`.
    async fn each(
        &self,
        after: Option<&MessageId>,
        filter: &DeadLetterFilter,
        mut visit: impl FnMut(DeadLetter) -> bool,
    ) -> Result<()> {
        let mut after = after.cloned();
        loop {
            let page = self.store.list(&self.queue, after.as_ref(), PAGE).await?;
            let Some(last) = page.last().map(|letter| letter.id.clone()) else {
                return Ok(());
            };
            for letter in page {
                if filter.fits(&letter) && !visit(letter) {
                    return Ok(());
                }
            }
            after = Some(last);
        }
    }
}

impl std::fmt::Debug for DeadLetterQueue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterQueue")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Redrive,
    Discard,
}

/// A redrive or a discard that is done when awaited. It returns the ids of the dead letters that it
/// moved or deleted.
///
/// # Errors
/// When the store cannot be read or written. Dead letters that were moved or deleted before stay so; a
/// retry continues with the others.
///
/// # Cancel safety
/// Dead letters that were moved or deleted before the future is dropped stay so.
#[derive(Debug)]
#[must_use = "nothing is done until this is awaited"]
pub struct DeadLetterAction<'a> {
    letters: DeadLetterQueue<'a>,
    action: Action,
    which: DeadLetterSelection,
    rate: Option<u32>,
    dry_run: bool,
}

impl<'a> DeadLetterAction<'a> {
    /// Limits how many dead letters are moved or deleted a second; at least 1. Defaults to no limit.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Who does it. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.letters.order.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.letters.order.signature.reason = Some(reason.into());
        self
    }

    /// Changes nothing, and returns the ids that would be moved or deleted.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    async fn run(self) -> Result<Vec<MessageId>> {
        let engine = self.letters.engine;
        if self.rate == Some(0) {
            return Err(Error::new(
                ErrorKind::Configuration,
                "`rate` must be at least 1 a second",
            ));
        }

        let ids = self.selected().await?;
        if self.dry_run || ids.is_empty() {
            return Ok(ids);
        }

        let recorded = Recorded::begin(&**engine, self.entry()).await?;
        let done = self.act(&ids).await?;
        recorded.end(u64::try_from(done.len()).unwrap_or(0)).await;
        Ok(done)
    }

    /// The ids of what is selected. They are collected before anything moves, so that a letter that dies
    /// again meanwhile is not met twice.
    async fn selected(&self) -> Result<Vec<MessageId>> {
        let DeadLetterQueue { store, queue, .. } = &self.letters;
        let mut ids = Vec::new();
        match &self.which {
            DeadLetterSelection::Filter(filter) => {
                self.letters
                    .each(None, filter, |letter| {
                        ids.push(letter.id);
                        true
                    })
                    .await?;
            }
            DeadLetterSelection::Ids(asked) => {
                for id in asked {
                    // A redrive finds out by itself which ids exist; only a dry run has to ask.
                    if !self.dry_run || store.find(queue, id).await?.is_some() {
                        ids.push(id.clone());
                    }
                }
            }
        }
        Ok(ids)
    }

    /// The entry of the audit trail about all of it.
    fn entry(&self) -> AuditEntry {
        let action = match self.action {
            Action::Redrive => AuditAction::Redrive,
            Action::Discard => AuditAction::Discard,
        };
        let DeadLetterQueue { order, queue, .. } = &self.letters;
        let signature = order.signature.clone();
        let now = DateTime::UNIX_EPOCH;
        let mut entry = AuditEntry::new(now, signature, action, queue.clone());
        match &self.which {
            DeadLetterSelection::Filter(filter) => {
                entry.selection = Some((EventState::Dead, filter.into()));
            }
            DeadLetterSelection::Ids(ids) => {
                if let [id] = &ids[..] {
                    entry.event = Some(EventRef::Dead(id.clone()));
                }
            }
        }
        entry
    }

    async fn act(&self, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let DeadLetterQueue { store, queue, .. } = &self.letters;
        let rate = self
            .rate
            .map(|rate| usize::try_from(rate).unwrap_or(usize::MAX));
        let mut done = Vec::new();

        for (index, chunk) in ids.chunks(rate.unwrap_or(PAGE).min(PAGE)).enumerate() {
            // A pause before each chunk but the first, as long as the chunk takes at this rate.
            if let (Some(rate), 1..) = (self.rate, index) {
                let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                // A rate of zero was refused above, so this divides.
                let pause = Duration::from_secs(1)
                    .saturating_mul(count)
                    .checked_div(rate);
                sleep(pause.unwrap_or_default()).await;
            }
            done.extend(match self.action {
                Action::Redrive => store.redrive(queue, chunk).await?,
                Action::Discard => store.discard(queue, chunk).await?,
            });
        }

        Ok(done)
    }
}

impl<'a> IntoFuture for DeadLetterAction<'a> {
    type Output = Result<Vec<MessageId>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
