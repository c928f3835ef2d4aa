//! What is to become of a delivery.

use std::time::Duration;

use super::Outgoing;
use crate::message::settlement::{Progress, Reason};

/// What is to become of one delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Settle {
    /// Every handler is done: remove the message (or archive it), and publish what they returned.
    Ack {
        /// Events that handlers returned; they become visible together with the removal.
        outgoing: Vec<Outgoing>,
    },
    /// Deliver again after a pause.
    Retry {
        /// How long from now, on the engine's clock.
        after: Duration,
        /// The marks of the handlers that ran in this delivery; merged into the message's own.
        progress: Progress,
        /// Events of the handlers that are done; published in the same step that marks them done.
        outgoing: Vec<Outgoing>,
    },
    /// Move the message to the queue's dead letters.
    DeadLetter {
        /// Why.
        reason: Reason,
        /// The marks of the handlers that ran in this delivery.
        progress: Progress,
        /// Events of the handlers that are done.
        outgoing: Vec<Outgoing>,
    },
    /// Give the message back untouched; it is readable at once, in its old place.
    Release,
}

impl Settle {
    /// The events that go out with it.
    #[must_use]
    pub fn outgoing(&self) -> &[Outgoing] {
        match self {
            Self::Ack { outgoing }
            | Self::Retry { outgoing, .. }
            | Self::DeadLetter { outgoing, .. } => outgoing,
            Self::Release => &[],
        }
    }

    pub(crate) fn outgoing_mut(&mut self) -> Option<&mut Vec<Outgoing>> {
        match self {
            Self::Ack { outgoing }
            | Self::Retry { outgoing, .. }
            | Self::DeadLetter { outgoing, .. } => Some(outgoing),
            Self::Release => None,
        }
    }

    pub(crate) fn into_progress(self) -> Progress {
        match self {
            Self::Retry { progress, .. } | Self::DeadLetter { progress, .. } => progress,
            Self::Ack { .. } | Self::Release => Progress::default(),
        }
    }
}
