//! A delivery in a batch.

use std::sync::Arc;

use crate::delivery::attempt::Attempt;
use crate::delivery::received::Received;
use crate::handler::Handler;
use crate::message::settlement::{HandlerMark, Progress};

/// A delivery in a batch.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) attempt: Attempt,
    /// The handler's mark if it succeeds.
    pub(crate) done: HandlerMark,
    /// No other handler takes the event: a transaction that finishes it acknowledges it.
    pub(crate) is_sole: bool,
}

impl Member {
    pub(crate) fn received(&self) -> &Arc<Received> {
        &self.attempt.received
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.received().lease.is_cancelled()
    }

    /// What the handler's transaction writes on the message; `None` if it acknowledges it.
    pub(super) fn mark(&self, handler: &Handler) -> Option<Progress> {
        (!self.is_sole).then(|| Progress::of_one(handler.name.clone(), self.done.clone()))
    }
}
