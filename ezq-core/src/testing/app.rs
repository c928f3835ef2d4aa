//! An application for tests, on the memory engine.

use std::ops::Deref;

use crate::app::{App, AppBuilder};
use crate::error::Result;
use crate::memory::MemoryEngine;
use crate::message::queue_name::IntoQueueName;
use crate::observe::report::{Report, ReportOfAll};
use crate::testing::drain::{builder, drain, drain_one, prepare};
use crate::testing::{Records, memory};

/// An application for tests: on a memory engine, without the handlers found at link time, and without
/// the options of the environment. It derefs to its [`App`].
///
/// ```
/// use ezq_core::event::Event;
/// use ezq_core::handler::Handler;
/// use ezq_core::testing::TestApp;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Ordered { id: u32 }
/// # impl Event for Ordered { const TYPE: &'static str = "ordered"; }
/// # #[derive(Serialize, Deserialize)] struct Charged { id: u32 }
/// # impl Event for Charged { const TYPE: &'static str = "charged"; }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// async fn charge(event: Ordered) -> Charged {
///     Charged { id: event.id }
/// }
/// let app = TestApp::new(|builder| builder.register(Handler::on("charge", charge)))?;
/// app.publish(&Ordered { id: 7 }).await?;
/// app.drain().await?;
/// assert_eq!(app.assert_published::<Charged>().id, 7);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestApp {
    app: App,
    engine: MemoryEngine,
}

impl TestApp {
    /// Builds an application from what `build` adds to an empty builder.
    ///
    /// # Errors
    /// As [`AppBuilder::build`].
    pub fn new(build: impl FnOnce(AppBuilder) -> AppBuilder) -> Result<Self> {
        let engine = MemoryEngine::new();
        let app = build(builder().without_discovered_handlers()).build(engine.clone())?;
        prepare(&app);
        Ok(Self { app, engine })
    }

    /// The engine, for assertions on its queues.
    #[must_use]
    pub fn engine(&self) -> &MemoryEngine {
        &self.engine
    }

    /// Handles every event of every [queue that the application
    /// consumes](App::consumed_queues), to the end: what is due, what its handlers publish, and retries. It
    /// does not wait for the pauses between attempts; see [moved time](crate::testing#moved-time).
    /// Scheduled events stay.
    ///
    /// ```
    /// # use ezq_core::event::Event;
    /// # use ezq_core::handler::{Context, Handler};
    /// # use ezq_core::testing::TestApp;
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Ordered { id: u32 }
    /// # impl Event for Ordered { const TYPE: &'static str = "ordered"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// async fn charge(_: Ordered, context: Context) -> Result<(), &'static str> {
    ///     if context.attempt() < 3 { Err("no answer") } else { Ok(()) }
    /// }
    /// let app = TestApp::new(|app| app.register(Handler::on("charge", charge)))?;
    /// app.publish(&Ordered { id: 7 }).await?;
    /// let report = app.drain().await?;
    /// assert_eq!((report.counts.retried, report.counts.handled), (2, 1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - As [`Consumer::run`](crate::consumer::Consumer::run).
    /// - [`ErrorKind::NoHandler`](crate::ErrorKind::NoHandler) when no handler took an event; all other events are handled then, and
    ///   the message names its type. An event that a handler returned or published may be for another
    ///   application, so it is no error. Nor is any if
    ///   [`unknown_types`](crate::config::Config::unknown_types) is `Skip`.
    /// - [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) when there is no end: a handler that always snoozes, that
    ///   publishes what it handles, or handlers that publish each other's events.
    pub async fn drain(&self) -> Result<ReportOfAll> {
        drain(&self.app, &self.engine).await
    }

    /// Handles every event that is due on one queue, and what its handlers publish there. It makes no
    /// retry due before its time.
    ///
    /// # Errors
    /// As [`drain`](Self::drain), and [`ErrorKind::InvalidQueueName`](crate::ErrorKind::InvalidQueueName) for a wrong name.
    pub async fn drain_queue(&self, queue: impl IntoQueueName) -> Result<Report> {
        drain_one(&self.app, &queue.into_queue_name()?).await
    }

    fn records(&self) -> Records {
        memory::records(&self.engine)
    }

    crate::__assertions!();
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}
