//! The events of one queue as an operator sees them: page by page and filtered; acted on, one by its id or
//! all that match; and cancelled.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use super::acting::EventAct;
use super::bulk::BulkEvents;
use crate::admin::cancel::CancelRequest;
use crate::admin::errors::{ERRORS_SCANNED, ErrorGroups};
use crate::admin::follow::Follow;
use crate::engine::reader::Reader;
use crate::engine::{
    Browse, Cancel, Engine, EventAction, EventFilter, EventPage, EventRef, EventState, PageCursor,
    PageRequest,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::message_id::MessageId;
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::shared::Shared;

/// The largest page.
const LONGEST_PAGE: usize = 1000;

/// The events of one queue. Get it by [`App::events`](crate::app::App::events).
#[derive(Clone)]
pub struct Events<'a> {
    inner: &'a Shared,
    engine: &'a Arc<dyn Engine>,
    browse: &'a dyn Browse,
    queue: QueueName,
    reader: Reader,
}

impl<'a> Events<'a> {
    pub(crate) fn new(inner: &'a Shared, queue: QueueName, reader: Reader) -> Result<Self> {
        let engine = inner.services.engines.of(&queue);
        let browse = engine.browse().ok_or_else(|| {
            let name = engine.capabilities().name;
            let text = format!("the engine `{name}` does not support browsing events page by page");
            Error::new(ErrorKind::Unsupported, text)
        })?;
        Ok(Self {
            inner,
            engine,
            browse,
            queue,
            reader,
        })
    }

    /// Reads a page of the events in a state when awaited: those that are or were due first come first,
    /// and dead letters by their ids. No lock is taken.
    ///
    /// ```
    /// # use ezq_core::admin::{EventFilter, EventState};
    /// # use ezq_core::event::Event;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app.queue("orders"))?;
    /// app.publish(&Paid { order: 7 }).await?;
    ///
    /// let paid = EventFilter::all().event_type("order.paid");
    /// let events = app.events("orders")?;
    /// let mut page = events.page(EventState::Ready).filter(paid.clone()).await?;
    /// loop {
    ///     for event in &page.events {
    ///         println!("{} since {}", event.message_id, event.published_at);
    /// #       assert_eq!(event.event::<Paid>()?.unwrap().order, 7);
    ///     }
    ///     let Some(next) = page.next else { break };
    ///     page = events.page(EventState::Ready).filter(paid.clone()).after(next).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn page(&self, state: EventState) -> PageQuery<'a> {
        PageQuery {
            events: self.clone(),
            request: PageRequest::new(self.queue.clone(), state),
        }
    }

    /// Follows what is published to the queue, without leasing it: from now on, after the newest `last`
    /// events that it holds already (1,000 at most).
    ///
    /// ```no_run
    /// # async fn example(app: ezq_core::app::App) -> ezq_core::Result<()> {
    /// let events = app.events("orders")?;
    /// let mut follow = events.follow(10).await?;
    /// loop {
    ///     for event in follow.next().await? {
    ///         println!("{} {}", event.message_id, event.event_type.as_deref().unwrap_or("?"));
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`] if there is no such queue, and [`ErrorKind::Unsupported`] if the engine
    /// does not number its messages; otherwise when the engine could not be asked.
    pub async fn follow(&self, last: usize) -> Result<Follow<'a>> {
        let at = (self.engine, self.browse);
        Follow::begin(at, self.queue.clone(), self.reader.clone(), last).await
    }

    /// What dead letters died of, and what events that wait for another attempt failed of last: grouped by
    /// the handler and its error without numbers, ids and quoted texts. At most `limit` groups, those with
    /// most events first. No lock is taken.
    ///
    /// It looks at the newest 10,000 dead letters, and at the 10,000 events that are due next;
    /// [`is_complete`](ErrorGroups::is_complete) says whether that is all.
    ///
    /// ```
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::{Handler, HandlerError};
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// # async fn mail(paid: Paid) -> Result<(), HandlerError> {
    /// #     Err(HandlerError::fatal(format!("no address for order {}", paid.order)))
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app.queue("orders").register(Handler::on("mail", mail)))?;
    /// app.publish_all(&[Paid { order: 7 }, Paid { order: 8 }]).await?;
    /// app.drain_queue("orders").await?;
    ///
    /// let errors = app.events("orders")?.errors(20).await?;
    /// for group in &errors.groups {
    ///     println!("{} times {}", group.count(), group.key);
    /// #   assert_eq!((group.dead, group.key.error.as_str()), (2, "no address for order #"));
    /// }
    ///
    /// // Once that is mended, all of them are tried again.
    /// let moved = app.dead_letters("orders")?.redrive(errors.groups[0].dead_letters()).await?;
    /// assert_eq!(moved.len(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::QueueMissing`] if there is no such queue; otherwise when the engine could not be asked.
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn errors(&self, limit: usize) -> Result<ErrorGroups> {
        let failures = self.browse.failures(&self.queue, ERRORS_SCANNED).await?;
        Ok(ErrorGroups::of(failures, limit))
    }

    /// Cancels an event when awaited, in whatever process it is: by the id of its message.
    ///
    /// - One that **waits** (ready, scheduled, or for another attempt) is cancelled at once.
    /// - One that a worker **has** is cancelled there: the
    ///   [cancellation](crate::handler::Context::cancellation) of its handlers fires within a second as a
    ///   rule, and within a few if a notification is lost. Handlers are cut off at their next `.await`,
    ///   and a `Tx` is rolled back. Then the event is settled as `what` says, whatever its handlers
    ///   returned, and events that they returned do not go out. A handler whose transaction has committed
    ///   counts, so an event may be handled in spite of it.
    ///
    /// Events of its ordering key that wait behind it go on. A batch of a handler without `Tx` may go on for
    /// its other events for two seconds. Then it is cut off, and they are handled one by one. A batch that
    /// claims in its transaction is not cut off: if it commits, the event is handled.
    ///
    /// ```
    /// # use ezq_core::admin::{Cancel, CancelOutcome, EventState};
    /// # use ezq_core::event::Event;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app.queue("orders"))?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    ///
    /// let events = app.events("orders")?;
    /// let cancelled = events.cancel(&paid.id, Cancel::Discard).by("Ada").reason("a test order").await?;
    /// assert_eq!(cancelled, CancelOutcome::Cancelled);
    /// assert!(events.page(EventState::Ready).await?.events.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn cancel(&self, id: &MessageId, what: Cancel) -> CancelRequest<'a> {
        let by = self.inner.config.app.as_str();
        let at = (self.engine, &self.inner.services);
        CancelRequest::new(at, self.queue.clone(), id.clone(), (what, by))
    }

    /// Lets an event that waits for another attempt, or is due later, be tried at once. Its attempts so far
    /// still count. Returns whether there was such an event.
    pub fn retry_now(&self, id: &MessageId) -> EventAct<'a> {
        self.act(Ok(EventAction::RetryNow), EventRef::from(id))
    }

    /// Deletes an event of the queue, or a dead letter, when awaited. Nothing of it goes to an archive or a
    /// trail. What waits behind it for its ordering key goes on.
    ///
    /// The id alone means an event of the queue. A copy from a [page](Self::page) knows which it is.
    ///
    /// ```
    /// # use ezq_core::event::Event;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "order.paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app.queue("orders"))?;
    /// let paid = app.publish(&Paid { order: 7 }).await?;
    /// let events = app.events("orders")?;
    /// assert!(events.discard(&paid.id).by("Ada").reason("a test order").await?);
    /// assert!(!events.discard(&paid.id).await?, "it is gone");
    /// # Ok(()) }
    /// ```
    pub fn discard(&self, event: impl Into<EventRef>) -> EventAct<'a> {
        self.act(Ok(EventAction::Discard), event.into())
    }

    /// Moves a dead letter back to its queue when awaited. Handlers that were done stay done; those that
    /// failed start with their first attempt. The id is that of the dead letter.
    pub fn redrive(&self, letter: &MessageId) -> EventAct<'a> {
        self.act(Ok(EventAction::Redrive), EventRef::Dead(letter.clone()))
    }

    /// Moves an event of the queue, or a dead letter, to another queue when awaited.
    ///
    /// The event keeps its id, type and headers, and a due time that is still to come. Handlers that were
    /// done stay done; others start with their first attempt. There it is the newest event, also of its
    /// ordering key. The other queue must exist.
    pub fn move_to(&self, event: impl Into<EventRef>, queue: impl IntoQueueName) -> EventAct<'a> {
        let to = queue.into_queue_name();
        self.act(to.map(|to| EventAction::Move { to }), event.into())
    }

    /// All events in a state, to act on them together: everything, or what meets a
    /// [filter](BulkEvents::filter).
    #[must_use]
    pub fn all(&self, state: EventState) -> BulkEvents<'a> {
        BulkEvents::new(self.inner, self.queue.clone(), state)
    }

    fn act(&self, action: Result<EventAction>, event: EventRef) -> EventAct<'a> {
        EventAct::new(self.inner, self.queue.clone(), action, event)
    }
}

impl std::fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// A page that is read when this is awaited.
///
/// # Errors
/// - [`ErrorKind::QueueMissing`] if there is no such queue.
/// - [`ErrorKind::Configuration`] for a limit of 0 or more than 1,000, or a cursor of another engine.
/// - Otherwise when the engine could not be asked.
///
/// # Cancel safety
/// It changes nothing.
#[must_use = "nothing is read until this is awaited"]
#[derive(Debug)]
pub struct PageQuery<'a> {
    events: Events<'a>,
    request: PageRequest,
}

impl<'a> PageQuery<'a> {
    /// Only events that meet every condition of the filter. Defaults to all.
    ///
    /// A page looks at 10,000 events at most. So with a filter it may have few events, or none, and not be
    /// the last: as long as there is a [`next`](EventPage::next), go on.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.request.filter = filter;
        self
    }

    /// The page behind a place: the [`next`](EventPage::next) of the page before. Defaults to the first.
    pub fn after(mut self, cursor: PageCursor) -> Self {
        self.request.after = Some(cursor);
        self
    }

    /// How many events it has at most: from 1 to 1,000. Defaults to 50.
    pub fn limit(mut self, limit: usize) -> Self {
        self.request.limit = limit;
        self
    }

    async fn read(self) -> Result<EventPage> {
        let Self { events, request } = self;
        if !(1..=LONGEST_PAGE).contains(&request.limit) {
            let text = format!("the limit of a page is from 1 to {LONGEST_PAGE}");
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        let mut page = events.browse.page(&request).await?;
        for event in &mut page.events {
            event.reader = events.reader.clone();
        }
        Ok(page)
    }
}

impl<'a> IntoFuture for PageQuery<'a> {
    type Output = Result<EventPage>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}
