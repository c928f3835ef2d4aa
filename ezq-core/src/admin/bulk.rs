//! Everything that matches a filter, acted on as an operation that is stored: counted before, watched
//! while it runs, resumed after its process died.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::sleep;
use uuid::Uuid;

use super::acting::Order;
use crate::engine::{
    EventAction, EventFilter, EventState, Operation, Operations, Preview, Selection,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::shared::Shared;

/// All events of a queue in a state, or those that meet a filter. Get it by
/// [`Events::all`](super::Events::all).
#[derive(Debug, Clone)]
pub struct BulkEvents<'a> {
    order: Order<'a>,
    selection: Selection,
}

impl<'a> BulkEvents<'a> {
    pub(super) fn new(inner: &'a Shared, queue: QueueName, state: EventState) -> Self {
        Self {
            order: Order::new(inner),
            selection: Selection::new(queue, state),
        }
    }

    /// Only events that meet every condition of the filter. Defaults to all.
    #[must_use]
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.selection.filter = filter;
        self
    }

    /// Only events that were there when they were counted: none that is newer than the newest of then.
    /// Defaults to those that are there when the operation starts.
    #[must_use]
    pub fn previewed(mut self, preview: &Preview) -> Self {
        self.selection.last = preview.last.clone();
        self
    }

    /// Deletes them. Nothing of them goes to an archive or a trail.
    pub fn discard(self) -> BulkRequest<'a> {
        self.request(Ok(EventAction::Discard))
    }

    /// Moves dead letters back to their queue. Handlers that were done stay done; those that failed start
    /// with their first attempt.
    pub fn redrive(self) -> BulkRequest<'a> {
        self.request(Ok(EventAction::Redrive))
    }

    /// Makes them due now: those that wait for another attempt, or were scheduled. Their attempts so far
    /// still count.
    pub fn retry_now(self) -> BulkRequest<'a> {
        self.request(Ok(EventAction::RetryNow))
    }

    /// Moves them to another queue, as [`Events::move_to`](super::Events::move_to) moves one.
    pub fn move_to(self, queue: impl IntoQueueName) -> BulkRequest<'a> {
        let to = queue.into_queue_name();
        self.request(to.map(|to| EventAction::Move { to }))
    }

    fn request(self, action: Result<EventAction>) -> BulkRequest<'a> {
        BulkRequest {
            order: self.order,
            selection: self.selection,
            action,
            id: Uuid::now_v7().to_string(),
        }
    }
}

/// Something that is to be done to all events that match. [`preview`](Self::preview) counts them;
/// [`start`](Self::start) stores the operation; awaiting this starts it and runs it to its end.
///
/// An operation touches no event that was stored after it started. It goes in steps of at most 100
/// events, each of which is one transaction with the operation's new position and counts. So it is never
/// done twice to one event, and a process that dies in between leaves nothing half done:
/// [`BulkOperations::resume`] goes on.
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
/// let bulk = app.events("orders")?.all(EventState::Ready).filter(paid).discard();
/// assert_eq!(bulk.preview().await?.count, 1);
///
/// let started = bulk.by("Ada").reason("test orders").start().await?;
/// let ended = app.operations().resume(&started.id).on_progress(|operation| {
///     println!("{} of {:?}", operation.done, operation.total);
/// });
/// assert_eq!(ended.await?.done, 1);
/// # Ok(()) }
/// ```
///
/// # Errors
/// - [`ErrorKind::QueueMissing`](crate::ErrorKind::QueueMissing) if the queue, or the one to move to,
///   does not exist.
/// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for an action that does not fit events
///   in this state.
/// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the queue's engine has no operations, or
///   another engine keeps the queue to move to.
/// - Otherwise when the engine could not be asked. What was done stays done.
///
/// # Cancel safety
/// Once the operation is stored, it stays so: resume or stop it.
#[must_use = "nothing is done until this is awaited or started"]
#[derive(Debug)]
pub struct BulkRequest<'a> {
    order: Order<'a>,
    selection: Selection,
    action: Result<EventAction>,
    id: String,
}

impl<'a> BulkRequest<'a> {
    /// Who orders it. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.order.signature.reason = Some(reason.into());
        self
    }

    /// Counts in full what the operation would act on now. It changes nothing.
    ///
    /// # Errors
    /// As awaiting it. [`ErrorKind::Transient`](crate::ErrorKind::Transient) if counting takes too long:
    /// narrow the filter, or start without a count.
    pub async fn preview(&self) -> Result<Preview> {
        self.operations()?.0.preview(&self.selection).await
    }

    /// Stores the operation, which begins to run with [`BulkOperations::resume`] or
    /// [`step`](BulkOperations::step). Called again after an error, it stores no second one.
    ///
    /// # Errors
    /// As awaiting it.
    pub async fn start(&self) -> Result<Operation> {
        let (operations, action) = self.operations()?;
        let Self {
            order, selection, ..
        } = self;
        operations
            .start(&self.id, action, selection, &order.signature)
            .await
    }

    async fn run(self) -> Result<Operation> {
        let mut operation = self.start().await?;
        let (operations, _) = self.operations()?;
        while operation.is_running() {
            operation = operations.step(&operation.id).await?;
        }
        Ok(operation)
    }

    fn operations(&self) -> Result<(&'a dyn Operations, &EventAction)> {
        let action = self.action.as_ref().map_err(Error::without_source)?;
        action.check(self.selection.state)?;
        let operations = self.order.operations_for(&self.selection.queue, action)?;
        Ok((operations, action))
    }
}

impl<'a> IntoFuture for BulkRequest<'a> {
    type Output = Result<Operation>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// The operations of an application's engines, of every process. Get it by
/// [`App::operations`](crate::app::App::operations).
#[derive(Clone, Copy)]
pub struct BulkOperations<'a> {
    inner: &'a Shared,
}

impl<'a> BulkOperations<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Self {
        Self { inner }
    }

    /// The newest operations of every engine, newest first, at most `limit`.
    ///
    /// # Errors
    /// When an engine could not be asked.
    pub async fn list(&self, limit: usize) -> Result<Vec<Operation>> {
        let mut all = Vec::new();
        for operations in self.engines() {
            all.extend(operations.list_operations(limit).await?);
        }
        all.sort_by(|a, b| (b.began_at, &b.id).cmp(&(a.began_at, &a.id)));
        all.truncate(limit);
        Ok(all)
    }

    /// One operation.
    ///
    /// # Errors
    /// [`ErrorKind::OperationMissing`](crate::ErrorKind::OperationMissing) if there is none; otherwise when
    /// an engine could not be asked.
    pub async fn get(&self, id: &str) -> Result<Operation> {
        Ok(self.find(id).await?.1)
    }

    /// Takes one step of an operation, and returns how far it is then. One that was stopped, or has
    /// ended, is returned as it is.
    ///
    /// # Errors
    /// As [`get`](Self::get); or why the step could not be taken. It then changed nothing.
    ///
    /// # Cancel safety
    /// The step is taken as a whole, or not.
    pub async fn step(&self, id: &str) -> Result<Operation> {
        self.find(id).await?.0.step(id).await
    }

    /// Runs an operation to its end when awaited: one that was started, whose process died, or that was
    /// stopped. Several processes may run one operation: each takes some of its steps.
    pub fn resume(&self, id: impl Into<String>) -> OperationRun<'a> {
        OperationRun {
            operations: *self,
            order: Order::new(self.inner),
            id: id.into(),
            rate: None,
            on_progress: None,
        }
    }

    /// Stops an operation when awaited, before its next step. What was done stays done. It can be
    /// [resumed](Self::resume).
    pub fn stop(&self, id: impl Into<String>) -> StopRequest<'a> {
        StopRequest {
            operations: *self,
            order: Order::new(self.inner),
            id: id.into(),
        }
    }

    fn engines(&self) -> impl Iterator<Item = &'a dyn Operations> {
        let engines = self.inner.services.engines.all();
        engines.filter_map(|engine| engine.operations())
    }

    async fn find(&self, id: &str) -> Result<(&'a dyn Operations, Operation)> {
        for operations in self.engines() {
            if let Some(operation) = operations.find_operation(id).await? {
                return Ok((operations, operation));
            }
        }
        Err(Operation::missing(id))
    }
}

impl fmt::Debug for BulkOperations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkOperations").finish_non_exhaustive()
    }
}

type OnProgress<'a> = Box<dyn FnMut(&Operation) + Send + 'a>;

/// A run of an operation to its end, or until somebody stops it. It returns how far the operation is
/// then.
///
/// # Errors
/// As [`BulkOperations::step`]. What was done stays done; a retry goes on behind it.
///
/// # Cancel safety
/// The operation stays where its last step ended. Resume it later, or stop it.
#[must_use = "nothing is done until this is awaited"]
pub struct OperationRun<'a> {
    operations: BulkOperations<'a>,
    order: Order<'a>,
    id: String,
    rate: Option<u32>,
    on_progress: Option<OnProgress<'a>>,
}

impl<'a> OperationRun<'a> {
    /// Is called after each step with how far the operation is.
    pub fn on_progress(mut self, told: impl FnMut(&Operation) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(told));
        self
    }

    /// Limits how many events it acts on in a second, on average over its steps of 100; at least 1.
    /// Defaults to no limit.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Who resumes it, if it was stopped. Defaults to the
    /// [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    async fn run(mut self) -> Result<Operation> {
        if self.rate == Some(0) {
            let text = "`rate` must be at least 1 a second";
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        let (operations, _) = self.operations.find(&self.id).await?;
        let mut operation = operations.proceed(&self.id, &self.order.signature).await?;
        while operation.is_running() {
            let seen = operation.seen();
            operation = operations.step(&self.id).await?;
            if let Some(tell) = &mut self.on_progress {
                tell(&operation);
            }
            if let (true, Some(rate)) = (operation.is_running(), self.rate) {
                sleep(time_of(operation.seen().saturating_sub(seen), rate)).await;
            }
        }
        Ok(operation)
    }
}

/// How long events take at a rate.
fn time_of(events: u64, rate: u32) -> Duration {
    let events = u32::try_from(events).unwrap_or(u32::MAX);
    let time = Duration::from_secs(1)
        .saturating_mul(events)
        .checked_div(rate);
    // A rate of zero was refused, so this divides.
    time.unwrap_or_default()
}

impl<'a> IntoFuture for OperationRun<'a> {
    type Output = Result<Operation>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for OperationRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationRun")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A stop of an operation when this is awaited. It returns how far the operation is then.
///
/// # Errors
/// As [`BulkOperations::get`].
///
/// # Cancel safety
/// Dropping the future leaves it open whether the operation was stopped.
#[must_use = "nothing is stopped until this is awaited"]
#[derive(Debug)]
pub struct StopRequest<'a> {
    operations: BulkOperations<'a>,
    order: Order<'a>,
    id: String,
}

impl<'a> StopRequest<'a> {
    /// Who stops it. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.order.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.order.signature.reason = Some(reason.into());
        self
    }

    async fn stop(self) -> Result<Operation> {
        let (operations, _) = self.operations.find(&self.id).await?;
        operations.stop(&self.id, &self.order.signature).await
    }
}

impl<'a> IntoFuture for StopRequest<'a> {
    type Output = Result<Operation>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.stop())
    }
}
