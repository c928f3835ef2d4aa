//! The search for control events in a paused queue, where no claim would find them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use crate::consumer::settings::Settings;
use crate::engine::{Delivery, Engine, TypeSearch};
use crate::error::{ErrorKind, Result};
use crate::event::{End, Event, Interrupt};
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// How often to search if nothing was published meanwhile, as far as this consumer heard.
const PAUSE: Duration = Duration::from_secs(5);
/// How often to search at most: publishers may wake the consumer for each event.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// When a consumer of a paused queue searches for control events, and how far it has come.
#[derive(Debug)]
pub(crate) struct ControlSearch {
    so_far: TypeSearch,
    /// When the newest search began.
    began: Option<Instant>,
    next: Instant,
}

/// One search on its way.
pub(crate) struct Searching {
    engine: Arc<dyn Engine>,
    queue: QueueName,
    lease: Duration,
    so_far: TypeSearch,
}

/// What one search came to.
pub(crate) struct Searched {
    /// How far it came.
    so_far: TypeSearch,
    /// When the lease of the control event was asked for.
    pub(crate) sent: Instant,
    /// The control event that it leased, if it found one.
    pub(crate) result: Result<Option<Delivery>>,
}

impl ControlSearch {
    pub(crate) fn new() -> Self {
        Self {
            so_far: TypeSearch::default(),
            began: None,
            next: Instant::now(),
        }
    }

    /// When to search next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Searches as soon as that is allowed: a pause began, or something was published.
    pub(crate) fn soon(&mut self) {
        let now = Instant::now();
        self.next = self
            .began
            .map_or(now, |began| now.max(began + SHORTEST_PAUSE));
    }

    /// Begins a search.
    pub(crate) fn begin(&mut self, settings: &Settings) -> Searching {
        let now = Instant::now();
        self.began = Some(now);
        self.next = now + PAUSE;
        Searching {
            engine: Arc::clone(&settings.engine),
            queue: settings.queue.clone(),
            lease: settings.lease,
            so_far: std::mem::take(&mut self.so_far),
        }
    }

    /// Takes note of how far a search has come.
    pub(crate) fn ended(&mut self, searched: &mut Searched) {
        self.so_far = std::mem::take(&mut searched.so_far);
        // More to read, or one that another consumer just gave back.
        if self.so_far.has_more || !self.so_far.due.is_empty() {
            self.soon();
        }
    }
}

impl Searching {
    /// Searches once, and leases the first control event that it can get.
    pub(crate) async fn run(self) -> Searched {
        let span = debug_span!(parent: None, "ezq.search", queue = %self.queue);
        self.search().instrument(span).await
    }

    async fn search(self) -> Searched {
        let Self {
            engine,
            queue,
            so_far,
            ..
        } = &self;
        let before = so_far.clone();
        let types = control_types();

        let searched = match engine.pauses() {
            Some(pauses) => pauses.search(queue, &types, before.clone()).await,
            // An engine keeps what it has.
            None => Ok(before.clone()),
        };
        let so_far = match searched {
            Ok(so_far) => so_far,
            Err(error) => {
                return Searched {
                    so_far: before,
                    sent: Instant::now(),
                    result: Err(error),
                };
            }
        };

        for id in &so_far.due {
            let sent = Instant::now();
            let result = self.lease(id).await;
            if !matches!(result, Ok(None)) {
                return Searched {
                    so_far,
                    sent,
                    result,
                };
            }
        }
        Searched {
            so_far,
            sent: Instant::now(),
            result: Ok(None),
        }
    }

    /// Leases a control event. `None` if another consumer has it.
    async fn lease(&self, id: &MessageId) -> Result<Option<Delivery>> {
        let leased = self.engine.lease_by_id(&self.queue, id, self.lease).await;
        match leased {
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(None),
            leased => leased,
        }
    }
}

/// The names of the types of control events.
fn control_types() -> Vec<&'static str> {
    let ends = std::iter::once(End::TYPE).chain(End::ALIASES.iter().copied());
    let interrupts = std::iter::once(Interrupt::TYPE).chain(Interrupt::ALIASES.iter().copied());
    ends.chain(interrupts).collect()
}
