//! The test kit: an application on the memory engine, with methods that tests need.
//!
//! Its clock is tokio's. Under `#[tokio::test(start_paused = true)]`, `tokio::time::advance` ends
//! leases and makes retries due.
#![allow(clippy::panic)]

use std::ops::Deref;

use crate::app::{App, AppBuilder};
use crate::codec::codecs::Codecs;
use crate::codec::wire::Origin;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::envelope::Envelope;
use crate::event::{Event, means};
use crate::memory::{MemoryEngine, Published};
use crate::message::queue_name::QueueName;
use crate::observe::report::Report;

/// An application for tests: on a memory engine, without the handlers found at link time, and
/// without the options of the environment. It derefs to its [`App`].
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
        // The harness shows warnings only of tests that fail.
        crate::logging::in_a_test();
        let engine = MemoryEngine::new();
        let builder = AppBuilder::with(Ok(Config::default())).without_discovered_handlers();
        let app = build(builder).build(engine.clone())?;

        // So that `drain` can name the events that no handler takes.
        app.inner.dispatcher.unknown_reasons.keep();
        Ok(Self { app, engine })
    }

    /// The engine, for assertions on its queues.
    #[must_use]
    pub fn engine(&self) -> &MemoryEngine {
        &self.engine
    }

    /// Handles every event that is due on the application's queue, and the events that its handlers
    /// publish there, until no event is due. It does not wait for retries and scheduled events that
    /// are due later.
    ///
    /// # Errors
    /// - As [`Consumer::run`](crate::consumer::Consumer::run).
    /// - [`ErrorKind::NoHandler`] when no handler took an event; all other events are handled then,
    ///   and the message names its type. An event that a handler returned or published may be for
    ///   another application, so it is not an error. Nor is any if
    ///   [`unknown_types`](crate::config::Config::unknown_types) is `Skip`.
    pub async fn drain(&self) -> Result<Report> {
        self.drain_queue(&self.app.config().queue).await
    }

    /// As [`drain`](Self::drain), on another queue.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub async fn drain_queue(&self, queue: &QueueName) -> Result<Report> {
        let unknown_reasons = &self.app.inner.dispatcher.unknown_reasons;
        // Those that a consumer of the test's own met are not of this drain.
        unknown_reasons.take(queue);
        let report = self.app.consumer().queue(queue).until_idle().run().await?;

        let unknown = unknown_reasons.take(queue);
        if unknown.is_empty() {
            return Ok(report);
        }
        let text = format!(
            "in the queue `{queue}`: {}. A `TestApp` has the handlers that it is given, and no others",
            unknown.join("; ")
        );
        Err(Error::new(ErrorKind::NoHandler, text))
    }

    /// Every event of a type that was published so far, to any queue, in order.
    #[must_use]
    pub fn published<E: Event>(&self) -> Vec<E> {
        let codecs = self.codecs();
        self.engine
            .all_published()
            .iter()
            .filter_map(|one| read(codecs, one))
            .collect()
    }

    /// The event of a type that was published last.
    ///
    /// # Panics
    /// When none was published; the message lists the types that were.
    #[track_caller]
    #[must_use]
    pub fn assert_published<E: Event>(&self) -> E {
        self.published().pop().unwrap_or_else(|| {
            let codecs = self.codecs();
            let all = self.engine.all_published();
            let types: Vec<String> = all.iter().map(|one| type_name(codecs, one)).collect();
            panic!("no `{}` was published, only {types:?}", E::TYPE)
        })
    }

    /// Asserts that no event of a type was published.
    ///
    /// # Panics
    /// When one was.
    #[track_caller]
    pub fn assert_not_published<E: Event>(&self) {
        let count = self.published::<E>().len();
        assert!(count == 0, "{count} of `{}` were published", E::TYPE);
    }

    fn codecs(&self) -> &Codecs {
        &self.app.inner.services.codecs
    }
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

fn envelope(codecs: &Codecs, published: &Published) -> Option<Envelope> {
    let origin = Origin {
        queue: &published.message.queue,
        message_id: &published.id,
        enqueued_at: published.at,
        headers: &published.message.headers,
    };
    codecs.read(&published.message.body, origin).ok()
}

fn type_name(codecs: &Codecs, published: &Published) -> String {
    envelope(codecs, published)
        .map_or_else(|| "no event".into(), |found| found.event_type().to_owned())
}

fn read<E: Event>(codecs: &Codecs, published: &Published) -> Option<E> {
    let envelope = envelope(codecs, published)?;
    means::<E>(envelope.event_type()).then(|| envelope.decode().ok())?
}
