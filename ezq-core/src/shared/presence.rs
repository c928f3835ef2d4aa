//! Tells the store which consumers this process runs, in a task of one of them.
//!
//! One statement in ten seconds notes all consumers of an engine. A consumer that ends is removed by
//! itself; one that dies is not noted any more, and counts as gone after half a minute. None of this is
//! needed to consume: a failure is logged, and harms no consumer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::Instrument;

use crate::engine::{ConsumerPresence, Engine};
use crate::error::{Error, error_chain};
use crate::logging::warn;
use crate::observe::status::{ConsumerState, ConsumerStatus};
use crate::shared::Shared;

/// The longest time between two notes.
const PAUSE: Duration = Duration::from_secs(10);
/// How long to wait after a consumer has begun: several that begin together are noted together, and one
/// that ends at once is never noted.
const GATHER: Duration = Duration::from_millis(500);
/// How long the end of a consumer waits for its removal. An interrupt must be through within a second,
/// and takes up to 900 ms without this.
const REMOVAL: Duration = Duration::from_millis(50);

impl Shared {
    /// Tells that a consumer has begun, at the next note.
    pub(crate) fn consumer_begun(&self) {
        self.telling.begun.notify_one();
    }

    /// Notes the consumers of this application until it is dropped.
    pub(crate) async fn tell_of_consumers(self: Arc<Self>) {
        let Ok(_permit) = self.telling.teller.acquire().await else {
            return;
        };

        let mut is_failing = false;
        loop {
            sleep(GATHER).await;
            let failure = self.note_consumers().await.err();
            // An outage lasts for many notes: only the first is logged.
            if let Some(error) = failure.as_ref().filter(|_| !is_failing) {
                let error = error_chain(error);
                warn!(
                    error,
                    "the consumers of this process cannot be noted, so nobody sees that they \
                              run; `EZQ_PRESENCE=false` turns this off"
                );
            }
            is_failing = failure.is_some();

            tokio::select! {
                // With jitter the processes of a fleet do not write all at once.
                () = sleep(PAUSE.mul_f64(rand::random_range(0.8..0.95))) => {}
                () = self.telling.begun.notified() => {}
            }
        }
    }

    /// Notes all consumers once; the first error, if the others were noted.
    async fn note_consumers(&self) -> Result<(), Error> {
        let _writing = self.telling.writing.lock().await;
        let consumers = self.consumers();
        let mut result = Ok(());

        for engine in self.services.engines.all() {
            let Some(presence) = engine.presence() else {
                continue;
            };
            let own: Vec<&Arc<ConsumerStatus>> = consumers
                .iter()
                .filter(|status| self.is_kept_by(status, engine))
                .collect();
            let told: Vec<ConsumerPresence> = own
                .iter()
                .filter_map(|status| self.presence_of(status))
                .collect();
            if told.is_empty() {
                continue;
            }

            match presence.note(&told).await {
                Ok(()) => own
                    .iter()
                    .filter_map(|status| status.presence())
                    .for_each(|one| {
                        // Read by whoever removes it, under the same lock.
                        one.is_noted.store(true, Ordering::Relaxed);
                    }),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    fn is_kept_by(&self, status: &ConsumerStatus, engine: &Arc<dyn Engine>) -> bool {
        let queue = status.queue.as_ref();
        queue.is_some_and(|queue| Arc::ptr_eq(self.services.engines.of(queue), engine))
    }

    /// What to tell of a consumer; `None` of one that has ended or is not told of.
    fn presence_of(&self, status: &ConsumerStatus) -> Option<ConsumerPresence> {
        let presence = status.presence()?;
        let queue = status.queue.clone()?;
        let state = status.state();
        if state.is_ended() {
            return None;
        }

        let handlers = self.dispatcher.registry.of(&queue).iter();
        let counts = status.counters.counts();
        Some(ConsumerPresence {
            version: self.config.app_version.clone(),
            handlers: handlers.map(|handler| handler.name().clone()).collect(),
            concurrency: presence.concurrency.try_into().unwrap_or(u64::MAX),
            in_flight: presence.in_flight().try_into().unwrap_or(u64::MAX),
            is_paused: status.is_paused(),
            is_stopping: state == ConsumerState::Stopping,
            handled: counts.handled,
            retried: counts.retried,
            dead_lettered: counts.dead_lettered,
            uptime: status.began.elapsed(),
            ..ConsumerPresence::new(
                &*presence.id,
                &*self.config.app,
                queue,
                &*self.telling.host,
                std::process::id(),
            )
        })
    }

    /// Removes a consumer that has ended, if it was noted. Waits for that only a moment: the process may
    /// be in a hurry to end, and a consumer that is not removed counts as gone a little later.
    pub(crate) async fn consumer_ended(self: &Arc<Self>, status: &Arc<ConsumerStatus>) {
        let presence = status.presence();
        if !presence.is_some_and(|presence| presence.is_noted.load(Ordering::Relaxed)) {
            return;
        }

        let shared = Arc::clone(self);
        let status = Arc::clone(status);
        let removal = async move {
            let _writing = shared.telling.writing.lock().await;
            let Some(queue) = &status.queue else {
                return;
            };
            let Some(presence) = status.presence() else {
                return;
            };
            let Some(store) = shared.services.engines.of(queue).presence() else {
                return;
            };
            if let Err(error) = store.remove(&presence.id).await {
                tracing::debug!(error = %error_chain(&error), "a consumer that ended could not be removed");
            }
        };
        // In a task: it goes on if the moment is over.
        let removing = tokio::spawn(removal.in_current_span());
        let _ = timeout(REMOVAL, removing).await;
    }
}
