//! The handle of an ingest in the background.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::admin::IngestHealth;
use crate::consumer::handle::Ending;
use crate::consumer::stop::listener::StopTokens;
use crate::error::Result;
use crate::observe::ingest::{IngestReport, IngestState, IngestStatus};

/// An ingest that runs in the background. The handle is a future of its report. Dropping the handle does
/// not stop it.
#[derive(Debug)]
pub struct IngestHandle {
    stops: StopTokens,
    status: Arc<IngestStatus>,
    ending: Ending<IngestReport>,
}

impl IngestHandle {
    pub(super) fn new(
        stops: StopTokens,
        status: Arc<IngestStatus>,
        ending: Ending<IngestReport>,
    ) -> Self {
        Self {
            stops,
            status,
            ending,
        }
    }

    /// Asks the ingest to stop: nothing more is read, what was read is stored.
    pub fn stop(&self) {
        self.stops.handle.cancel();
    }

    /// Stops the ingest at once. Nothing is lost: the next one goes on behind the stored position.
    pub fn interrupt(&self) {
        self.stops.interrupt.cancel();
    }

    /// Whether the ingest still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.ending.is_running()
    }

    /// How far the ingest is; once it ended, why.
    #[must_use]
    pub fn state(&self) -> IngestState {
        self.status.state()
    }

    /// How the ingest is.
    #[must_use]
    pub fn health(&self) -> IngestHealth {
        IngestHealth::of(&self.status)
    }

    /// Waits until the ingest ends, as awaiting the handle itself does.
    ///
    /// # Errors
    /// As [`Ingest::run`](super::Ingest::run). A second call returns an error of the same kind and message,
    /// without its source.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the ingest runs on.
    pub async fn wait(&mut self) -> Result<IngestReport> {
        poll_fn(|context| self.ending.poll(context)).await
    }
}

/// The ingest's report, as [`IngestHandle::wait`] returns it.
impl Future for IngestHandle {
    type Output = Result<IngestReport>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.ending.poll(context)
    }
}
