//! Reading a delivery as what a handler takes.

use super::outcome::HandlerError;
use crate::delivery::received::Received;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::event::tick::Tick;

impl Received {
    /// Reads it as an event of this type.
    ///
    /// # Errors
    /// A fatal error when the data has another shape; one of its own when it is of a newer version.
    pub fn decode<E: Event>(&self) -> Result<E, HandlerError> {
        self.envelope.decode().map_err(|error| match error.kind() {
            ErrorKind::NewerVersion => HandlerError::newer_version(error),
            _ => HandlerError::undecodable(error),
        })
    }

    /// Reads a schedule's tick.
    pub(crate) fn tick(&self) -> Result<Tick, HandlerError> {
        let name = self.envelope.event_type();
        self.envelope
            .decode_data(name)
            .map_err(HandlerError::undecodable)
    }

    /// What to answer for an event that no variant takes.
    #[must_use]
    pub fn unexpected(&self) -> HandlerError {
        let name = self.envelope.event_type();
        HandlerError::undecodable(Error::new(
            ErrorKind::UnknownVariant,
            format!("no variant takes `{name}`"),
        ))
    }
}
