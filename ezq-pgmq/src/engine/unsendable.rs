//! Messages that the server cannot send: bytes that are no text in a database without an encoding,
//! values that are too long as text, and read counts at their limit.
//!
//! Such a message fails the statement that claims it, with all others of the batch. So the batch is
//! halved until the message is alone. It is leased without being read, and moved to the dead
//! letters as it is.

use ezq_core::engine::{Engine as _, LeaseRequest, Settle, SettleOutcome};
use ezq_core::message::{Progress, Reason, ReasonKind};
use ezq_core::{Error, Result};
use std::time::Duration;

use super::PgmqEngine;
use crate::claim::{Batch, Claimed};
use crate::error;

impl PgmqEngine {
    /// Claims, and passes over messages that cannot be sent.
    pub(crate) async fn claim_sendable(&self, request: &LeaseRequest) -> Result<Batch> {
        let mut max = request.max;
        loop {
            let mut fewer = request.clone();
            fewer.max = max;

            match self.claim(&fewer, true).await {
                Err(error) if error::is_unsendable(&error) && max > 1 => max /= 2,
                Err(error) if error::is_unsendable(&error) => {
                    return self.pass_over(&fewer, error).await;
                }
                result => return result,
            }
        }
    }

    /// Leases the next message without reading it. If it still cannot be sent it becomes a dead
    /// letter, and the queue should be asked again at once.
    async fn pass_over(&self, request: &LeaseRequest, error: Error) -> Result<Batch> {
        let mut batch = self.claim(request, false).await?;
        let queue = &request.queue;
        let Some(Claimed { delivery, .. }) = batch.claimed.first_mut() else {
            return Err(error);
        };

        match self.read(queue, delivery).await {
            Ok(()) if delivery.deliveries < i32::MAX.unsigned_abs() => return Ok(batch),
            Err(failure) if !error::is_unsendable(&failure) => return Err(failure),
            _ => {}
        }

        let receipt = delivery.receipt.clone();
        let why = ezq_core::error::error_chain(&error);
        let message_id = receipt.message_id().clone();
        let reason = Reason::new(
            ReasonKind::Undecodable,
            format!("the server cannot send the message: {why}"),
            0,
        );

        let progress = Progress::default();
        let bury = Settle::DeadLetter {
            reason,
            progress,
            outgoing: Vec::new(),
        };

        for outcome in self.settle(queue, vec![(receipt, bury)]).await? {
            if let SettleOutcome::Failed { error, .. } = outcome {
                return Err(error);
            }
        }

        ezq_core::private::warn!(%queue, %message_id, error = why, "moved a message that the server cannot send to the dead letters");
        Ok(Batch {
            next_due: Some(Duration::ZERO),
            ..Batch::default()
        })
    }
}
