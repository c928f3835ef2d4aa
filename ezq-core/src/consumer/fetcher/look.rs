//! The look into an idle queue that the engine shares among its consumers.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::clock::later;
use crate::consumer::settings::Settings;
use crate::engine::{LookRequest, Looked};

/// How long to wait for the answer once the look is due. Then the consumer claims.
const ANSWERING: Duration = Duration::from_secs(2);

/// The look that is under way, if any.
pub(crate) struct Look {
    /// In a task, so that an engine that panics does not end the consumer.
    under_way: JoinSet<Looked>,
}

impl Look {
    pub(crate) fn none() -> Self {
        Self {
            under_way: JoinSet::new(),
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Begins to look; at `due` the queue is looked into at the latest.
    pub(crate) fn begin(&mut self, settings: &Settings, due: Instant) {
        let engine = Arc::clone(&settings.engine);
        let patience = due.saturating_duration_since(Instant::now());
        let request = LookRequest::new(settings.queue.clone(), settings.lease, patience);

        let looking = async move {
            let Some(looks) = engine.shared_looks() else {
                return Looked::Perhaps;
            };
            let looked = timeout_at(later(due, ANSWERING), looks.look(request)).await;
            looked.unwrap_or(Looked::Perhaps)
        };
        self.under_way.spawn(looking.in_current_span());
    }

    /// Stops looking, if a look is under way.
    pub(crate) fn end(&mut self) {
        if self.is_under_way() {
            self.under_way = JoinSet::new();
        }
    }

    /// Waits for the answer; for ever if no look is under way.
    ///
    /// # Cancel safety
    /// No answer is lost when the future is dropped.
    pub(crate) async fn answered(&mut self) -> Looked {
        match self.under_way.join_next().await {
            Some(looked) => looked.unwrap_or(Looked::Perhaps),
            None => pending().await,
        }
    }
}
