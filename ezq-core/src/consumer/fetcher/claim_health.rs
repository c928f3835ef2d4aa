//! Whether claims succeed, for the log and for the consumer's status.

use std::sync::Arc;

use tracing::info;

use crate::error::{Error, Result, error_chain};
use crate::logging::{error, warn};
use crate::message::queue_name::QueueName;
use crate::observe::status::ConsumerStatus;

/// Whether claims succeed. The status learns of every answer, the log of each change.
pub(crate) struct ClaimHealth {
    queue: QueueName,
    status: Arc<ConsumerStatus>,
    /// The newest leased claim failed.
    is_failing: bool,
}

impl ClaimHealth {
    pub(crate) fn new(queue: QueueName, status: Arc<ConsumerStatus>) -> Self {
        Self {
            queue,
            status,
            is_failing: false,
        }
    }

    /// Notes that a leased claim was answered.
    pub(crate) fn succeeded(&mut self) {
        self.status.claimed(Ok(()));
        if std::mem::take(&mut self.is_failing) {
            info!(queue = %self.queue, "fetching works again");
        }
    }

    /// Notes that a transaction claimed a batch. Only a leased claim shows that leasing works again.
    pub(crate) fn claimed_in_transaction(&self) {
        self.status.claimed(Ok(()));
    }

    /// Notes that a claim failed, and the result of creating the queue again if it was gone.
    pub(crate) fn failed(&mut self, error: &Error, created: Option<Result<()>>) {
        self.status.claimed(Err(error));

        let queue = &self.queue;
        let text = error_chain(error);
        // An outage lasts for many claims: only the first is logged.
        if !std::mem::replace(&mut self.is_failing, true) {
            if error.is_transient() {
                warn!(%queue, error = %text, "fetching failed, will try again");
            } else {
                error!(%queue, error = %text, "fetching failed, will try again");
            }
        }

        match created {
            Some(Ok(())) => warn!(%queue, "the queue was missing and was created again"),
            Some(Err(error)) => {
                error!(%queue, error = %error_chain(&error), "the queue cannot be created");
            }
            None => {}
        }
    }
}
