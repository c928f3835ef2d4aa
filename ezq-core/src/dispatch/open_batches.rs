//! The batches of one consumer that deliveries may still join, at most one for each batch handler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::dispatch::admission::StartGuard;
use crate::dispatch::batch_member::Member;
use crate::dispatch::run_outcome::RunOutcome;
use crate::message::settlement::HandlerName;

/// The batches that deliveries may still join.
#[derive(Default)]
pub(crate) struct OpenBatches {
    open: Mutex<HashMap<HandlerName, Arc<OpenBatch>>>,
}

/// A batch that is not full yet.
#[derive(Default)]
pub(super) struct OpenBatch {
    entries: Mutex<Vec<Entry>>,
    closed: Notify,
}

/// A delivery in an open batch.
pub(super) struct Entry {
    pub(super) member: Member,
    pub(super) answer: oneshot::Sender<RunOutcome>,
    /// Dropped once the handler is called.
    pub(super) start: StartGuard,
}

impl OpenBatches {
    /// Joins the batch of a handler, which is closed once it has `size` entries. True if this entry
    /// is its first.
    pub(super) fn join(
        &self,
        handler: &HandlerName,
        size: usize,
        entry: Entry,
    ) -> (Arc<OpenBatch>, bool) {
        // Held until the entry is in: a batch that is closed meanwhile would run without it.
        let mut open = self.open();
        let batch = Arc::clone(open.entry(handler.clone()).or_default());
        let mut entries = batch.entries();
        entries.push(entry);
        let count = entries.len();
        drop(entries);

        if count >= size {
            open.remove(handler);
            batch.closed.notify_one();
        }
        (batch, count == 1)
    }

    /// Closes all batches as they are: nobody joins them any more.
    pub(crate) fn close(&self) {
        for (_, batch) in self.open().drain() {
            batch.closed.notify_one();
        }
    }

    /// Closes one batch, if it is still open.
    pub(super) fn close_one(&self, handler: &HandlerName, batch: &Arc<OpenBatch>) {
        let mut open = self.open();
        // The handler may have another batch by now.
        let is_open = open
            .get(handler)
            .is_some_and(|current| Arc::ptr_eq(current, batch));
        if is_open {
            open.remove(handler);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<HandlerName, Arc<OpenBatch>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenBatch {
    /// Waits until the batch is full or was closed.
    pub(super) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Takes the entries out.
    pub(super) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries())
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for OpenBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenBatches")
            .field("open", &self.open().len())
            .finish()
    }
}
