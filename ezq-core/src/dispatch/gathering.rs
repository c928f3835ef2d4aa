//! The batches of one consumer that are being gathered, one for each batch handler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::dispatch::attempt::Ran;
use crate::dispatch::batch_attempt::Member;
use crate::dispatch::slots::Begins;
use crate::message::settlement::HandlerName;

/// The batches that others may still join.
#[derive(Default)]
pub(crate) struct Gatherings {
    open: Mutex<HashMap<HandlerName, Arc<Gathering>>>,
}

/// A batch that is not full yet.
#[derive(Default)]
pub(crate) struct Gathering {
    waiting: Mutex<Vec<Waiting>>,
    closed: Notify,
}

/// A delivery in such a batch.
pub(crate) struct Waiting {
    pub(crate) member: Member,
    pub(crate) answer: oneshot::Sender<Ran>,
    /// Until the handler is called.
    pub(crate) begins: Begins,
}

impl Gatherings {
    /// Joins the batch of a handler, which is closed once it has so many; whether as its first.
    pub(crate) fn join(
        &self,
        handler: &HandlerName,
        size: usize,
        waiting: Waiting,
    ) -> (Arc<Gathering>, bool) {
        let mut open = self.open();
        let gathering = Arc::clone(open.entry(handler.clone()).or_default());
        let mut members = gathering.waiting();
        members.push(waiting);
        let (count, leads) = (members.len(), members.len() == 1);
        drop(members);

        if count >= size {
            open.remove(handler);
            gathering.closed.notify_one();
        }
        (gathering, leads)
    }

    /// Closes all batches as they are: nobody joins them any more.
    pub(crate) fn close(&self) {
        for (_, gathering) in self.open().drain() {
            gathering.closed.notify_one();
        }
    }

    /// Closes one batch.
    pub(crate) fn leave(&self, handler: &HandlerName, gathering: &Arc<Gathering>) {
        let mut open = self.open();
        if open
            .get(handler)
            .is_some_and(|current| Arc::ptr_eq(current, gathering))
        {
            open.remove(handler);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<HandlerName, Arc<Gathering>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    /// Waits until it is full or was closed.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Gatherings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gatherings")
            .field("open", &self.open().len())
            .finish()
    }
}
