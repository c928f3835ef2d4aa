//! The health of ingests.

use std::fmt;
use std::sync::{Arc, PoisonError};

use serde::{Serialize, Serializer};

use crate::message::queue_name::QueueName;
use crate::observe::ingest::{IngestState, IngestStatus};
use crate::shared::Shared;

/// The health of an ingest.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct IngestHealth {
    /// The name of its source.
    pub source: String,
    /// The queue that gets the events; `None` if it was given a text that is not a queue name.
    #[serde(serialize_with = "name")]
    pub queue: Option<QueueName>,
    /// Its state.
    #[serde(serialize_with = "text")]
    pub state: IngestState,
    /// Why reading or storing fails just now.
    pub error: Option<String>,
    /// How many messages it has stored as events.
    pub stored: u64,
    /// How many it has stored as dead letters.
    pub dead_lettered: u64,
}

impl IngestHealth {
    /// Whether the ingest reads and stores, or waits for another one that does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_well = matches!(self.state, IngestState::Running | IngestState::Waiting);
        is_well && self.error.is_none()
    }

    pub(crate) fn of(status: &IngestStatus) -> Self {
        Self {
            source: status.source.clone(),
            queue: status.queue.clone(),
            state: status.state(),
            error: status.failure(),
            stored: status.stored(),
            dead_lettered: status.dead_lettered(),
        }
    }
}

impl Shared {
    /// Adds an ingest that begins.
    pub(crate) fn note_ingest(&self, status: &Arc<IngestStatus>) {
        let mut known = self.ingests.lock().unwrap_or_else(PoisonError::into_inner);
        // One that replaces a failed one makes room for itself.
        known.retain(|one| Arc::strong_count(one) > 1 || one.source != status.source);
        known.push(Arc::clone(status));
    }

    /// The ingests that are held by a future or a handle, and those that failed.
    pub(crate) fn ingests(&self) -> Vec<Arc<IngestStatus>> {
        let mut known = self.ingests.lock().unwrap_or_else(PoisonError::into_inner);
        // One that failed stays until another one replaces it: somebody has to see it.
        known.retain(|one| {
            let has_failed = matches!(one.state(), IngestState::Failed(_));
            Arc::strong_count(one) > 1 || has_failed
        });
        known.clone()
    }
}

impl fmt::Display for IngestHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the ingest of `{}`: {}", self.source, self.state)?;
        self.error
            .as_ref()
            .map_or(Ok(()), |error| write!(f, ", failing: {error}"))
    }
}

#[allow(clippy::ref_option)]
fn name<S: Serializer>(queue: &Option<QueueName>, to: S) -> Result<S::Ok, S::Error> {
    queue.as_ref().map(QueueName::as_str).serialize(to)
}

fn text<S: Serializer>(state: &IngestState, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(state)
}
