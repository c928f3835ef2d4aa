//! The audit trail: who did what, and when.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use chrono::{DateTime, Utc};

use super::acting::operations;
use crate::engine::{AuditAction, AuditPage, AuditRequest, PageCursor};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::shared::Shared;

/// The largest page.
const LONGEST_PAGE: usize = 1000;

/// The audit trail of an application. Get it by [`App::audit`](crate::app::App::audit).
///
/// It holds what operators did by ezq, each with who, why and when: to queues and handlers, to events,
/// schedules, subscriptions, captures and replays. An entry is stored together with what it tells of, or
/// before that is done. Where it cannot be stored, nothing is done. ezq removes none: on PGMQ they are rows
/// of `ezq.audit`.
///
/// What a program does in normal operation is not recorded: what it publishes, creates and subscribes when
/// it starts, and that it [cancels](crate::app::App::cancel) or
/// [reschedules](crate::app::App::reschedule) an event that it has published itself.
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    inner: &'a Shared,
}

impl<'a> Audit<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Self {
        Self { inner }
    }

    /// Reads a page of the trail when awaited, newest first: of the application's own engine, or of the
    /// engine of the [queue](AuditQuery::queue) that is asked for.
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app.queue("orders"))?;
    /// # app.stop_all("orders", None).await?;
    /// app.queues().pause("orders").by("Ada").reason("the shop is being moved").await?;
    /// for entry in app.audit().list().queue("orders").await?.entries {
    ///     println!("{} {} {}", entry.at, entry.signature.by, entry.action);
    /// #   assert_eq!(entry.signature.by, "Ada");
    /// }
    /// # assert_eq!(app.audit().list().await?.entries.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn list(&self) -> AuditQuery<'a> {
        AuditQuery {
            inner: self.inner,
            queue: Ok(None),
            request: AuditRequest::default(),
        }
    }
}

impl Audit<'_> {
    /// Whether the application's own engine lets it only look: its role may not write the trail, so
    /// everything that an operator does is refused. False for an engine that keeps no trail.
    ///
    /// # Errors
    /// When the engine could not be asked.
    pub async fn is_read_only(&self) -> Result<bool> {
        let Shared {
            config, services, ..
        } = self.inner;
        let engine = services.engines.of(&config.queue);
        match engine.operations() {
            Some(operations) => operations.is_read_only().await,
            None => Ok(false),
        }
    }
}

impl fmt::Debug for Audit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// A page of the audit trail that is read when this is awaited.
///
/// # Errors
/// - [`ErrorKind::InvalidQueueName`] for a text that is no queue name.
/// - [`ErrorKind::Configuration`] for a limit of 0 or more than 1,000, or a cursor of another engine.
/// - [`ErrorKind::Unsupported`] if the engine keeps no audit trail.
/// - Otherwise when the engine could not be asked.
///
/// # Cancel safety
/// It changes nothing.
#[must_use = "nothing is read until this is awaited"]
pub struct AuditQuery<'a> {
    inner: &'a Shared,
    queue: Result<Option<QueueName>>,
    request: AuditRequest,
}

impl AuditQuery<'_> {
    /// Only what was done in this queue. Defaults to all queues.
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name().map(Some);
        self
    }

    /// Only what this one did: the whole name, as it was signed. Defaults to everybody.
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.request.by = Some(who.into());
        self
    }

    /// Only acts of this kind. Defaults to all.
    pub fn action(mut self, action: AuditAction) -> Self {
        self.request.action = Some(action);
        self
    }

    /// Only what was done at this time or later, by the engine's clock. Defaults to no limit.
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.request.since = Some(time);
        self
    }

    /// Only what was done before this time, by the engine's clock. Defaults to no limit.
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.request.until = Some(time);
        self
    }

    /// The page behind a place: the [`next`](AuditPage::next) of the page before. Defaults to the first.
    pub fn after(mut self, cursor: PageCursor) -> Self {
        self.request.after = Some(cursor);
        self
    }

    /// How many entries it has at most: from 1 to 1,000. Defaults to 50.
    pub fn limit(mut self, limit: usize) -> Self {
        self.request.limit = limit;
        self
    }

    async fn read(self) -> Result<AuditPage> {
        let Self {
            inner,
            queue,
            mut request,
        } = self;
        if !(1..=LONGEST_PAGE).contains(&request.limit) {
            let text = format!("the limit of a page is from 1 to {LONGEST_PAGE}");
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        request.queue = queue?;
        let of = request.queue.as_ref().unwrap_or(&inner.config.queue);
        operations(inner.services.engines.of(of))?
            .audit(&request)
            .await
    }
}

impl<'a> IntoFuture for AuditQuery<'a> {
    type Output = Result<AuditPage>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}

impl fmt::Debug for AuditQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditQuery")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
