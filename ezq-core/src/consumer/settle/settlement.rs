//! One settlement on its way to the store.

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::lane_guard::LaneGuard;
use crate::delivery::received::Received;
use crate::engine::{Receipt, Settle};
use crate::observe::report::Disposition;

/// The delivery that a settlement ends.
#[derive(Debug)]
pub(crate) enum SettledDelivery {
    /// Its handlers have ended.
    Handled(Arc<Received>),
    /// No handler saw it. Its body may not even be readable.
    Unhandled(Box<Receipt>),
}

impl SettledDelivery {
    pub(crate) fn receipt(&self) -> &Receipt {
        match self {
            Self::Handled(received) => &received.receipt,
            Self::Unhandled(receipt) => receipt,
        }
    }

    pub(crate) fn received(&self) -> Option<&Received> {
        match self {
            Self::Handled(received) => Some(received),
            Self::Unhandled(_) => None,
        }
    }
}

/// A settlement that the store has not confirmed yet.
#[derive(Debug)]
pub(crate) struct PendingSettlement {
    pub(crate) delivery: SettledDelivery,
    pub(crate) settle: Settle,
    pub(crate) disposition: Disposition,
    pub(crate) since: Instant,
    /// The lane of a delivery with an ordering key: it goes on once this is settled.
    pub(crate) lane: Option<LaneGuard>,
    /// An earlier try may have succeeded: its answer was lost.
    pub(crate) is_unanswered: bool,
    /// The receipt of the newest try, if it differs from the first. In a box, as it is rare: a settlement
    /// is moved several times.
    pub(crate) tried_as: Option<Box<Receipt>>,
    /// Set if the lease is lost and a claim of this consumer may have taken it: the number of the
    /// newest such claim.
    pub(crate) suspected_claim: Option<u64>,
}

impl PendingSettlement {
    pub(crate) fn new(delivery: SettledDelivery, settle: Settle, disposition: Disposition) -> Self {
        Self {
            delivery,
            settle,
            disposition,
            since: Instant::now(),
            lane: None,
            is_unanswered: false,
            tried_as: None,
            suspected_claim: None,
        }
    }

    /// The receipt with which the delivery came.
    pub(crate) fn receipt(&self) -> &Receipt {
        self.delivery.receipt()
    }

    /// The receipt that the newest try used.
    pub(crate) fn tried_receipt(&self) -> &Receipt {
        self.tried_as.as_deref().unwrap_or(self.receipt())
    }

    /// Whether this worker's own clock says that the lease still runs.
    pub(crate) fn is_leased(&self) -> bool {
        self.delivery
            .received()
            .is_some_and(|received| !received.lease.is_expired())
    }
}
