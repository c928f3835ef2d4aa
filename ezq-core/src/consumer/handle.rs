//! The handle of a consumer in the background.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::health::ConsumerHealth;
use crate::consumer::stop::listener::StopTokens;
use crate::error::Result;
use crate::observe::report::{Counts, Report};
use crate::observe::status::{ConsumerState, ConsumerStatus};
use crate::runtime::cut_off;
use crate::shared::Shared;

/// A consumer that runs in the background.
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::consumer::{ConsumerState, StopReason};
/// # use ezq_core::handler::{AnyEvent, Handler};
/// # use ezq_core::memory::MemoryEngine;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// # let log = Handler::on("log", |_: AnyEvent| async {});
/// # let app = App::builder().without_discovered_handlers().register(log).build(MemoryEngine::new())?;
/// let handle = app.consumer().spawn();
/// handle.states().wait_for(|state| *state == ConsumerState::Running).await;
/// assert!(handle.health().await.is_ready());
///
/// handle.stop(); // what runs may finish
/// let report = handle.wait().await?;
/// assert_eq!(report.reason, StopReason::Handle);
/// # Ok(()) }
/// ```
///
/// Dropping the handle does not stop it.
#[derive(Debug)]
pub struct ConsumerHandle {
    pub(crate) app: Arc<Shared>,
    pub(crate) stops: StopTokens,
    pub(crate) status: Arc<ConsumerStatus>,
    pub(crate) task: JoinHandle<Result<Report>>,
}

impl ConsumerHandle {
    /// Asks the consumer to stop: what runs may finish within the [grace](super::Consumer::grace).
    pub fn stop(&self) {
        self.stops.handle.cancel();
    }

    /// Cancels what runs and stops the consumer, within a second. A handler that does not end by then
    /// is left behind. Its event, and one that cannot be given back because the store does not answer,
    /// comes again when its lease ends.
    pub fn interrupt(&self) {
        self.stops.interrupt.cancel();
    }

    /// What the consumer did so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.status.counters.counts()
    }

    /// Whether the consumer still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// How far the consumer is; once it ended, why.
    #[must_use]
    pub fn state(&self) -> ConsumerState {
        self.status.state()
    }

    /// The consumer's states to watch, from the present one on.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<ConsumerState> {
        self.status.states()
    }

    /// How the consumer is, and how far behind its queue is. The engine is asked, for at most
    /// [`connect_timeout`](crate::config::Config::connect_timeout).
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn health(&self) -> ConsumerHealth {
        ConsumerHealth::of(&self.app, &self.status).await
    }

    /// Waits until the consumer ends.
    ///
    /// # Errors
    /// As [`Consumer::run`](super::Consumer::run).
    pub async fn wait(self) -> Result<Report> {
        self.task
            .await
            .unwrap_or_else(|error| Err(cut_off("the consumer", error)))
    }
}
