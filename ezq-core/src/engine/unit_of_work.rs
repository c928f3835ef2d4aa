//! The transaction in which a handler's writes, its outgoing events and its mark commit together.

use std::any::Any;

use async_trait::async_trait;

use super::{Outgoing, SettleOutcome};
use crate::{Progress, Result};

/// One handler's transaction on one delivery; what the extractor `Tx` wraps.
///
/// It ends in [`finish`](Self::finish) or [`abandon`](Self::abandon); one that is dropped rolls
/// back as well.
#[async_trait]
pub trait UnitOfWork: Send {
    /// Writes the outgoing events, then merges the handler's mark into the message (or, when it is
    /// the delivery's last, acknowledges it) under the fence of the receipt, then commits.
    ///
    /// # Errors
    /// When it could not be committed. A [transient](crate::Error::is_transient) error leaves it
    /// open whether it was: the message's own state tells. After any other nothing of it stands, and
    /// the handler counts as failed.
    async fn finish(
        self: Box<Self>,
        mark: Progress,
        last: bool,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome>;

    /// Rolls back, stopping a statement that still runs.
    async fn abandon(self: Box<Self>);

    /// The unit as its engine's own type, for that engine's extractor.
    fn as_any(&mut self) -> &mut dyn Any;
}
