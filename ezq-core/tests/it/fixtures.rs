//! Events and a parameter that several tests use.

use ezq_core::event::Event;
use ezq_core::handler::{Call, Extract, HandlerError};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Step {
    pub n: u32,
}

impl Event for Step {
    const TYPE: &'static str = "step";
}

/// Has a queue of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mail {}

impl Event for Mail {
    const TYPE: &'static str = "mail";
    const QUEUE: Option<&'static str> = Some("mail");
}

/// Has a transaction, and does nothing with it.
pub(crate) struct Within;

impl Extract for Within {
    const TRANSACTION: bool = true;

    async fn extract(_: &Call) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}
