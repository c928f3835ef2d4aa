//! What others are told of a consumer that runs, beside its status.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// What others are told of one consumer, across its restarts.
#[derive(Debug)]
pub(crate) struct PresenceOf {
    /// Its id.
    pub(crate) id: String,
    /// How many events it handles at once.
    pub(crate) concurrency: usize,
    /// Whether it was noted in the store.
    pub(crate) is_noted: AtomicBool,
    in_flight: Mutex<InFlight>,
}

/// Tells how many events the newest run has leased and not settled.
struct InFlight(Box<dyn Fn() -> usize + Send + Sync>);

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&(self.0)()).finish()
    }
}

impl PresenceOf {
    pub(crate) fn new(concurrency: usize) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            concurrency,
            is_noted: AtomicBool::new(false),
            in_flight: Mutex::new(InFlight(Box::new(|| 0))),
        }
    }

    /// Sets whom to ask how much is in flight.
    pub(crate) fn measure(&self, in_flight: impl Fn() -> usize + Send + Sync + 'static) {
        *self.lock() = InFlight(Box::new(in_flight));
    }

    /// How many events it has leased and not settled.
    pub(crate) fn in_flight(&self) -> usize {
        (self.lock().0)()
    }

    fn lock(&self) -> MutexGuard<'_, InFlight> {
        // It is replaced as a whole, so a panic leaves a whole one behind.
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
