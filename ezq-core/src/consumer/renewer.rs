//! The task that renews all leases of a consumer, many in one statement.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::consumer::leases::Leases;
use crate::engine::{Engine, ExtendOutcome, Receipt};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::status::ConsumerStatus;

/// How many leases one statement renews at most.
const CHUNK: usize = 1000;
/// The pause after a renewal that failed, unless the leases are shorter than ten times as long.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What renews a consumer's leases.
pub(crate) struct Renewer {
    pub(crate) leases: Arc<Leases>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) queue: QueueName,
    /// Weak: health counts who holds the status.
    pub(crate) status: Weak<ConsumerStatus>,
}

/// For each lease that the store says is lost, the claim of this consumer that may have taken it.
type Suspects = HashMap<Receipt, u64>;

impl Renewer {
    /// Renews every held lease, a third of its time after the last renewal, until dropped.
    pub(crate) async fn run(self) {
        let ttl = self.leases.ttl();
        let mut suspects = Suspects::new();
        let mut pause = ttl / 3;
        loop {
            sleep(pause).await;

            let sent = Instant::now();
            pause = match self.renew_all(&mut suspects).await {
                Ok(is_incomplete) => {
                    self.succeeded(sent);
                    if is_incomplete || !self.leases.are_renewed() {
                        ttl / 10
                    } else {
                        ttl / 3
                    }
                }
                Err(error) => {
                    self.failed(sent, &error);
                    RETRY_PAUSE.min(ttl / 10)
                }
            };
        }
    }

    fn succeeded(&self, sent: Instant) {
        if self.leases.note_renewal(sent, false) {
            info!(queue = %self.queue, "renewing leases works again");
            self.note(Ok(()));
        }
    }

    fn failed(&self, sent: Instant, error: &Error) {
        let queue = &self.queue;
        let why = error_chain(error);
        if self.leases.note_renewal(sent, true) {
            warn!(%queue, error = %why, "leases cannot be renewed: nothing is claimed until they can");
        } else {
            // An outage lasts for many tries.
            debug!(%queue, error = %why, "leases cannot be renewed yet");
        }
        self.note(Err(error));
    }

    /// Renews everything once. True if some leases are to be asked for again soon.
    async fn renew_all(&self, suspects: &mut Suspects) -> Result<bool> {
        let receipts = self.leases.renewable();
        let mut chunks: Vec<&[Receipt]> = receipts.chunks(CHUNK).collect();
        if chunks.is_empty() && self.leases.are_renewals_failing() {
            // Nothing is held any more, and nothing is claimed before a renewal works.
            chunks.push(&[]);
        }

        let mut is_incomplete = false;
        let mut still_suspect = Suspects::new();
        let mut failure = None;
        for chunk in chunks {
            let sent = Instant::now();
            // A chunk that fails keeps no other from being renewed.
            match self.extend(chunk).await {
                Ok(outcomes) => {
                    for (receipt, outcome) in chunk.iter().zip(outcomes) {
                        is_incomplete |=
                            self.book(receipt, outcome, sent, suspects, &mut still_suspect);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }

        *suspects = still_suspect;
        failure.map_or(Ok(is_incomplete), Err)
    }

    /// Renews one chunk.
    async fn extend(&self, chunk: &[Receipt]) -> Result<Vec<ExtendOutcome>> {
        let ttl = self.leases.ttl();
        let extended = self.engine.extend(&self.queue, chunk, ttl);
        // No answer in this time leaves as much to ask again, before the lease is over.
        timeout(ttl / 3, extended)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Transient, "no answer in time")))
    }

    /// Books what became of one lease. True if it is to be asked for again soon.
    fn book(
        &self,
        receipt: &Receipt,
        outcome: ExtendOutcome,
        sent: Instant,
        suspects: &Suspects,
        still_suspect: &mut Suspects,
    ) -> bool {
        match outcome {
            ExtendOutcome::Extended => {
                self.leases.renewed(receipt, sent);
                false
            }
            ExtendOutcome::Busy => true,
            ExtendOutcome::LeaseLost => {
                let mut suspect = suspects.get(receipt).copied();
                if self.leases.may_be_claimed_here(&mut suspect) {
                    // Not lost yet: the answer to that claim may bring the newer receipt.
                    still_suspect.extend(suspect.map(|claim| (receipt.clone(), claim)));
                    return true;
                }

                self.lose(receipt);
                false
            }
        }
    }

    fn lose(&self, receipt: &Receipt) {
        let Some(first) = self.leases.first(receipt) else {
            return;
        };
        if self.leases.lost(&first) {
            let message_id = receipt.message_id();
            warn!(queue = %self.queue, %message_id, "lease lost: its handlers are cancelled");
        }
    }

    fn note(&self, answer: Result<(), &Error>) {
        if let Some(status) = self.status.upgrade() {
            status.renewed(answer);
        }
    }
}
