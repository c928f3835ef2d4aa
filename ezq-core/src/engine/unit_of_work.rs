//! The transaction in which a handler's writes, its outgoing events and its mark commit together.

use std::any::Any;

use async_trait::async_trait;

use super::{Outgoing, SettleOutcome};
use crate::{HandlerName, Result};

/// One handler's transaction on one delivery; what the extractor `Tx` wraps.
#[async_trait]
pub trait UnitOfWork: Send {
    /// Writes the outgoing events, then marks the handler done (or, when it is the delivery's last,
    /// removes the message) under the fence, then commits.
    ///
    /// # Errors
    /// When the transaction could not be committed; nothing of it stands then, or, if the
    /// connection was lost during the commit itself, the message's own state tells.
    async fn finish(
        self: Box<Self>,
        handler: &HandlerName,
        last: bool,
        outgoing: Vec<Outgoing>,
    ) -> Result<SettleOutcome>;

    /// Rolls back, stopping a statement that still runs.
    async fn abandon(self: Box<Self>);

    /// The unit as its engine's own type, for that engine's extractor.
    fn as_any(&mut self) -> &mut dyn Any;
}
