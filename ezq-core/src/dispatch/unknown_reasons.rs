//! Why no handler took what came. Kept for the test kit only, whose `drain` fails with it.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::message::queue_name::QueueName;

/// The reasons, by queue. Nothing is kept before [`keep`](Self::keep): a consumer runs for long, and
/// nobody would take them.
#[derive(Debug, Default)]
pub(crate) struct UnknownReasons(OnceLock<Mutex<BTreeSet<(QueueName, String)>>>);

impl UnknownReasons {
    /// Keeps reasons from here on.
    pub(crate) fn keep(&self) {
        self.0.get_or_init(Mutex::default);
    }

    pub(super) fn add(&self, queue: &QueueName, why: &str) {
        if let Some(kept) = self.0.get() {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert((queue.clone(), why.to_owned()));
        }
    }

    /// Takes the reasons of a queue out.
    pub(crate) fn take(&self, queue: &QueueName) -> Vec<String> {
        let Some(kept) = self.0.get() else {
            return Vec::new();
        };

        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, rest): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut *kept)
            .into_iter()
            .partition(|(of, _)| of == queue);
        *kept = rest;
        taken.into_iter().map(|(_, why)| why).collect()
    }
}
