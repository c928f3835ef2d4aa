//! What is paused in the consumer's queue: heard from the engine, and handed to the handlers.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::consumer::scope::RunScope;
use crate::dispatch::paused::PausedHandlers;
use crate::engine::{Pause, QueuePauses};

/// The pauses of one queue, as the engine tells them.
pub(crate) struct PauseWatch {
    scope: Arc<RunScope>,
    /// `None` if the engine has no pauses.
    receiver: Option<watch::Receiver<QueuePauses>>,
    known: QueuePauses,
}

impl PauseWatch {
    /// Hands to the handlers what is paused already.
    pub(crate) fn new(
        scope: Arc<RunScope>,
        receiver: Option<watch::Receiver<QueuePauses>>,
    ) -> Self {
        let mut watch = Self {
            scope,
            receiver,
            known: Arc::from([]),
        };
        watch.learn();
        watch
    }

    /// Whether nothing of the queue may begin.
    pub(crate) fn is_paused(&self) -> bool {
        self.scope.admission.paused.is_queue()
    }

    /// Waits until something was paused or resumed.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        let Some(receiver) = &mut self.receiver else {
            return pending().await;
        };
        if receiver.changed().await.is_err() {
            // The engine is closed: what is paused stays so.
            self.receiver = None;
            pending().await
        }
    }

    /// Learns what is paused now, and hands it to the handlers.
    pub(crate) fn learn(&mut self) {
        let Some(receiver) = &mut self.receiver else {
            return;
        };
        let now = Arc::clone(&receiver.borrow_and_update());
        log_changes(&self.known, &now);
        self.known = now;

        let handlers: PausedHandlers = self
            .known
            .iter()
            .filter_map(|pause| Some((pause.target.handler.clone()?, pause.since)))
            .collect();
        let is_queue = self
            .known
            .iter()
            .any(|pause| pause.target.handler.is_none());
        let is_all = is_queue || self.are_all_paused(&handlers);
        self.scope.admission.paused.set(is_all, handlers);
    }

    /// Whether every handler is paused, apart from those of control events.
    fn are_all_paused(&self, paused: &PausedHandlers) -> bool {
        let registry = &self.scope.app.dispatcher.registry;
        let handlers = registry.of(&self.scope.settings.queue).iter();
        let mut ordinary = handlers
            .filter(|handler| !handler.takes_control())
            .peekable();
        ordinary.peek().is_some() && ordinary.all(|handler| paused.contains_key(handler.name()))
    }
}

fn log_changes(before: &[Pause], now: &[Pause]) {
    for pause in now.iter().filter(|pause| !before.contains(pause)) {
        let Pause {
            target, by, reason, ..
        } = pause;
        info!(by, reason, "{target} is paused");
    }

    let resumed = before
        .iter()
        .filter(|pause| now.iter().all(|other| other.target != pause.target));
    for pause in resumed {
        info!("{} is resumed", pause.target);
    }
}
