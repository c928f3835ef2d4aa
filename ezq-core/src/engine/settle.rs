//! How a delivery ends: what a consumer asks the engine to do, and what became of it.

use std::time::Duration;

use super::{Outgoing, Receipt};
use crate::error::Error;
use crate::message::settlement::{Progress, Reason};

/// How one delivery ends.
///
/// The events in `outgoing` are published in the step that settles the delivery: both happen or
/// neither does. A duplicate, by its dedupe key, is left out, and the settlement is done all the same.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Settle {
    /// Every handler is done: the message is removed, or archived if its queue keeps an archive.
    Ack {
        /// Events that handlers returned.
        outgoing: Vec<Outgoing>,
    },
    /// The message is delivered again after a pause.
    Retry {
        /// The pause, from now on the engine's clock.
        after: Duration,
        /// The marks of the handlers that ran in this delivery. They are merged into those that the
        /// message has.
        progress: Progress,
        /// Events of the handlers that are done.
        outgoing: Vec<Outgoing>,
    },
    /// The message moves to the queue's dead letters.
    DeadLetter {
        /// Why it died.
        reason: Reason,
        /// The marks of the handlers that ran in this delivery.
        progress: Progress,
        /// Events of the handlers that are done.
        outgoing: Vec<Outgoing>,
    },
    /// The message is deleted, whatever its queue keeps of handled ones.
    Discard,
    /// The message goes back unchanged: it is readable at once, in its old place, and the delivery
    /// counts as [returned](crate::message::headers::Headers::returned).
    Release,
}

impl Settle {
    /// The events that are published in the same step.
    #[must_use]
    pub fn outgoing(&self) -> &[Outgoing] {
        match self {
            Self::Ack { outgoing }
            | Self::Retry { outgoing, .. }
            | Self::DeadLetter { outgoing, .. } => outgoing,
            Self::Discard | Self::Release => &[],
        }
    }

    pub(crate) fn outgoing_mut(&mut self) -> Option<&mut Vec<Outgoing>> {
        match self {
            Self::Ack { outgoing }
            | Self::Retry { outgoing, .. }
            | Self::DeadLetter { outgoing, .. } => Some(outgoing),
            Self::Discard | Self::Release => None,
        }
    }

    pub(crate) fn into_progress(self) -> Progress {
        match self {
            Self::Retry { progress, .. } | Self::DeadLetter { progress, .. } => progress,
            Self::Ack { .. } | Self::Discard | Self::Release => Progress::default(),
        }
    }
}

/// What became of one settlement.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettleOutcome {
    /// The settlement is done, durably.
    Done,
    /// Nothing was changed, and the receipt is void: the message was delivered again, or is gone.
    LeaseLost,
    /// Nothing was changed, and the receipt is as valid as it was. The settlement can be tried again,
    /// unless the engine did not make the receipt ([`ErrorKind::InvalidReceipt`]).
    ///
    /// [`ErrorKind::InvalidReceipt`]: crate::ErrorKind::InvalidReceipt
    Failed {
        /// The receipt, given back.
        receipt: Receipt,
        /// Why it failed.
        error: Error,
    },
}

/// What became of one renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtendOutcome {
    /// The lease runs for the whole time again.
    Extended,
    /// The message is locked at present, perhaps by its handler's own transaction. Try again.
    Busy,
    /// The message was delivered again, or is gone, or the engine did not make the receipt.
    LeaseLost,
}
