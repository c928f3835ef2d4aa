//! Queues as an operator sees and steers them: listed and counted, paused and resumed, whole or one
//! handler of them.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use crate::admin::summary::{COUNT_CAP, QueueList, QueueSummary, UnreadableQueue};
use crate::engine::{Engine, Pause, PauseTarget, Pauses};
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::message::settlement::HandlerName;
use crate::shared::Shared;
use crate::text::nearest;

/// The queues of an application's engines. Get it by [`App::queues`](crate::app::App::queues).
///
/// # Pausing
///
/// A pause is stored, and counts for every process until it is ended. Consumers hear of it within a
/// second as a rule, and within five if a notification is lost.
///
/// While a **queue** is paused, its consumers claim nothing, and no handler begins. What runs goes on. A
/// consumer can be stopped as ever: by its handle, a token, a signal, [`End`](crate::event::End) and
/// [`Interrupt`](crate::event::Interrupt). What stands before an `End` then stays in the queue.
/// Publishing goes on.
///
/// While a **handler** is paused, its events are put aside for it. The other handlers of an event run.
/// No attempt is counted. With an ordering key, later events of the key wait behind. Once the handler is
/// resumed, its events are due at once.
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::handler::Handler;
/// # use ezq_core::testing::TestApp;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
/// # impl Event for Paid { const TYPE: &'static str = "paid"; const QUEUE: Option<&'static str> = Some("orders"); }
/// # async fn mail(_: Paid) {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// let app = TestApp::new(|app| app.queue("orders").register(Handler::on("mail", mail)))?;
/// app.publish(&Paid { order: 7 }).await?;
///
/// app.queues().pause("orders").by("Ada").reason("the shop is being moved").await?;
/// assert_eq!(app.drain().await?.counts.handled, 0);
///
/// app.queues().resume("orders").await?;
/// assert_eq!(app.drain().await?.counts.handled, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct Queues<'a> {
    inner: &'a Shared,
}

impl<'a> Queues<'a> {
    pub(crate) fn new(inner: &'a Shared) -> Self {
        Self { inner }
    }

    /// The names of all queues, sorted: also of those that other applications use. Places for dead
    /// letters are not among them, and engines that cannot list their queues are left out.
    ///
    /// # Errors
    /// When an engine could not be asked.
    pub async fn names(&self) -> Result<Vec<QueueName>> {
        let engines = &self.inner.services.engines;
        let mut all = Vec::new();
        for engine in engines.all() {
            let Some(overview) = engine.overview() else {
                continue;
            };
            let names = overview.queues().await?;
            // An engine may hold a queue that this application keeps on another one.
            all.extend(
                names
                    .into_iter()
                    .filter(|queue| Arc::ptr_eq(engines.of(queue), engine)),
            );
        }
        all.sort();
        Ok(all)
    }

    /// What every queue holds, sorted by name: those of [`names`](Self::names). The counts stop at
    /// 10,000, so this is as quick with millions of events as with a few. A queue that cannot be read is
    /// named by itself, and hides no other.
    ///
    /// ```
    /// # use ezq_core::event::Event;
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid { order: i64 }
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; const QUEUE: Option<&'static str> = Some("orders"); }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// # let app = TestApp::new(|app| app)?;
    /// app.publish(&Paid { order: 7 }).await?;
    /// for queue in app.queues().list().await?.queues {
    ///     println!("{}: {} ready, {} dead", queue.queue, queue.ready, queue.dead);
    /// #   assert_eq!((queue.queue.as_str(), queue.ready.value), ("orders", 1));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When an engine could not be asked at all.
    pub async fn list(&self) -> Result<QueueList> {
        let engines = &self.inner.services.engines;
        let names = self.names().await?;
        let mut all = QueueList::default();
        for engine in engines.all() {
            let own = names
                .iter()
                .filter(|queue| Arc::ptr_eq(engines.of(queue), engine));
            let own: Vec<QueueName> = own.cloned().collect();
            // An engine that does not answer at all fails the list: its queues would look as if gone.
            let found = summaries(&**engine, &own).await?;
            all.queues.extend(found.queues);
            all.unreadable.extend(found.unreadable);
        }
        all.queues.sort_by(|a, b| a.queue.cmp(&b.queue));
        all.unreadable.sort_by(|a, b| a.queue.cmp(&b.queue));
        Ok(all)
    }

    /// What one queue holds.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidQueueName`] for a text that is no queue name.
    /// - [`ErrorKind::QueueMissing`] if there is no such queue; the message names the one that was
    ///   probably meant.
    /// - [`ErrorKind::Unsupported`] when the queue's engine cannot count cheaply.
    /// - Otherwise when the engine could not be asked.
    pub async fn get(&self, queue: impl IntoQueueName) -> Result<QueueSummary> {
        let queue = queue.into_queue_name()?;
        let engine = self.inner.services.engines.of(&queue);
        if engine.overview().is_none() {
            let name = engine.capabilities().name;
            let text = format!(
                "the engine `{name}` has no overview of its queues: use `stats`, which counts them in full"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }

        let mut found = summaries(&**engine, std::slice::from_ref(&queue)).await?;
        if let Some(unreadable) = found.unreadable.pop() {
            return Err(unreadable.error);
        }
        match found.queues.pop() {
            Some(summary) => Ok(summary),
            None => {
                let text = format!("there is no queue `{queue}`");
                let missing = Error::new(ErrorKind::QueueMissing, text);
                Err(self.with_suggestion(&queue, missing).await)
            }
        }
    }

    /// The error for a missing queue, with the name that was probably meant.
    async fn with_suggestion(&self, queue: &QueueName, missing: Error) -> Error {
        // Without the names the error is right all the same.
        let names = self.names().await.unwrap_or_default();
        match nearest(queue.as_str(), names.iter().map(QueueName::as_str)) {
            Some(name) => {
                let text = format!("{missing}: is it `{name}`?");
                Error::new(missing.kind(), text)
            }
            None => missing,
        }
    }

    /// Pauses a queue, in every process, when awaited.
    ///
    /// ```no_run
    /// # async fn example(app: ezq_core::app::App) -> ezq_core::Result<()> {
    /// app.queues().pause("orders").by("Ada").reason("the payment provider is down").await?;
    /// # Ok(()) }
    /// ```
    pub fn pause(&self, queue: impl IntoQueueName) -> PauseRequest<'a> {
        let target = queue.into_queue_name().map(PauseTarget::queue);
        PauseRequest::new(self.inner, target)
    }

    /// Pauses one handler of a queue, in every process, when awaited. The name of the handler is that of
    /// [`Handler::name`](crate::handler::Handler::name). A name that no handler has is stored all the same:
    /// another application may have it.
    pub fn pause_handler(&self, queue: impl IntoQueueName, handler: &str) -> PauseRequest<'a> {
        PauseRequest::new(self.inner, handler_of(queue, handler))
    }

    /// Resumes a queue, in every process, when awaited. Handlers of it that are paused stay so.
    pub fn resume(&self, queue: impl IntoQueueName) -> ResumeRequest<'a> {
        let target = queue.into_queue_name().map(PauseTarget::queue);
        ResumeRequest::new(self.inner, target)
    }

    /// Resumes one handler of a queue when awaited, and makes the events due that were put aside for it.
    /// If they could not be made due, a second call tries that again. Otherwise the consumers of the queue
    /// do it, or they come within an hour.
    pub fn resume_handler(&self, queue: impl IntoQueueName, handler: &str) -> ResumeRequest<'a> {
        ResumeRequest::new(self.inner, handler_of(queue, handler))
    }

    /// Every pause of every engine, sorted by queue, those of whole queues first. Engines without
    /// pauses are left out.
    ///
    /// # Errors
    /// When an engine could not be asked.
    pub async fn pauses(&self) -> Result<Vec<Pause>> {
        let mut all = Vec::new();
        for engine in self.inner.services.engines.all() {
            if let Some(pauses) = engine.pauses() {
                all.extend(pauses.list().await?);
            }
        }
        all.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(all)
    }
}

impl std::fmt::Debug for Queues<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

/// A pause that begins when this is awaited. Returns false if there was one already; then that one
/// stays as it is.
///
/// # Errors
/// - [`ErrorKind::InvalidQueueName`] for a text that is no queue name.
/// - [`ErrorKind::QueueMissing`] if there is no such queue.
/// - [`ErrorKind::Unsupported`] when the queue's engine has no pauses.
/// - Otherwise when the engine could not be asked.
///
/// # Cancel safety
/// Dropping the future leaves it open whether the pause began.
#[must_use = "nothing is paused until this is awaited"]
pub struct PauseRequest<'a> {
    inner: &'a Shared,
    target: Result<PauseTarget>,
    by: Option<String>,
    reason: Option<String>,
}

impl<'a> PauseRequest<'a> {
    fn new(inner: &'a Shared, target: Result<PauseTarget>) -> Self {
        Self {
            inner,
            target,
            by: None,
            reason: None,
        }
    }

    /// Who pauses. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.by = Some(who.into());
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    async fn begin(self) -> Result<bool> {
        let target = self.target?;
        let by = self.by.as_deref().unwrap_or(&self.inner.config.app);
        let pauses = self.inner.pauses_of(&target.queue)?;
        match pauses.pause(&target, by, self.reason.as_deref()).await {
            Err(error) if error.kind() == ErrorKind::QueueMissing => {
                let queues = Queues { inner: self.inner };
                Err(queues.with_suggestion(&target.queue, error).await)
            }
            answer => answer,
        }
    }
}

impl<'a> IntoFuture for PauseRequest<'a> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

impl std::fmt::Debug for PauseRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PauseRequest")
            .field("target", &self.target)
            .field("by", &self.by)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// A pause that ends when this is awaited. Returns false if there was none.
///
/// # Errors
/// - [`ErrorKind::InvalidQueueName`] for a text that is no queue name.
/// - [`ErrorKind::Unsupported`] when the queue's engine has no pauses.
/// - Otherwise when the engine could not be asked.
///
/// # Cancel safety
/// Dropping the future leaves it open whether the pause ended.
#[must_use = "nothing is resumed until this is awaited"]
pub struct ResumeRequest<'a> {
    inner: &'a Shared,
    target: Result<PauseTarget>,
    by: Option<String>,
}

impl<'a> ResumeRequest<'a> {
    fn new(inner: &'a Shared, target: Result<PauseTarget>) -> Self {
        let by = None;
        Self { inner, target, by }
    }

    /// Who resumes. Defaults to the [name of the application](crate::config::Config::app).
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.by = Some(who.into());
        self
    }

    async fn resume(self) -> Result<bool> {
        let target = self.target?;
        let by = self.by.as_deref().unwrap_or(&self.inner.config.app);
        let pauses = self.inner.pauses_of(&target.queue)?;
        let was_paused = pauses.resume(&target, by).await?;

        // Also where it was not paused: an earlier call may have failed in between.
        if let Some(handler) = &target.handler {
            pauses.release_held(&target.queue, handler).await?;
        }
        Ok(was_paused)
    }
}

impl<'a> IntoFuture for ResumeRequest<'a> {
    type Output = Result<bool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.resume())
    }
}

impl std::fmt::Debug for ResumeRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResumeRequest")
            .field("target", &self.target)
            .field("by", &self.by)
            .finish_non_exhaustive()
    }
}

/// What some queues of an engine hold. One that was dropped meanwhile is left out.
async fn summaries(engine: &dyn Engine, queues: &[QueueName]) -> Result<QueueList> {
    let mut all = QueueList::default();
    let Some(overview) = engine.overview().filter(|_| !queues.is_empty()) else {
        return Ok(all);
    };
    let counts = overview.counts(queues, COUNT_CAP).await?;
    let pauses = match engine.pauses() {
        Some(pauses) => pauses.list().await?,
        None => Vec::new(),
    };

    for (queue, counts) in queues.iter().zip(counts) {
        let queue = queue.clone();
        match counts {
            Ok(Some(counts)) => {
                let own = pauses.iter().filter(|pause| pause.target.queue == queue);
                let own = own.cloned().collect();
                all.queues.push(QueueSummary::new(queue, counts, own));
            }
            // It was dropped since the names were read.
            Ok(None) => {}
            Err(error) => all.unreadable.push(UnreadableQueue { queue, error }),
        }
    }
    Ok(all)
}

impl Shared {
    /// The pauses of the engine that keeps a queue.
    fn pauses_of(&self, queue: &QueueName) -> Result<&dyn Pauses> {
        let engine = self.services.engines.of(queue);
        engine.pauses().ok_or_else(|| {
            let name = engine.capabilities().name;
            let text = format!(
                "the engine `{name}` does not support pauses, so the queue `{queue}` and its handlers \
                 cannot be paused or resumed: stop their consumers instead"
            );
            Error::new(ErrorKind::Unsupported, text)
        })
    }
}

fn handler_of(queue: impl IntoQueueName, handler: &str) -> Result<PauseTarget> {
    let queue = queue.into_queue_name()?;
    if handler.is_empty() {
        let text = format!("a handler of the queue `{queue}` has a name: `\"\"` is none");
        return Err(Error::new(ErrorKind::Configuration, text));
    }
    Ok(PauseTarget::handler(queue, HandlerName::from(handler)))
}
