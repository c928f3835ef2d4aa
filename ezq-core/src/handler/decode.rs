//! Decodes a delivery into what a handler takes, with errors that say what becomes of the event.

use crate::delivery::received::Received;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::event::tick::Tick;
use crate::handler::outcome::HandlerError;

impl Received {
    /// Decodes the event as this type.
    ///
    /// # Errors
    /// A fatal error if the data does not fit the type. If the event is of a newer version than the
    /// type, [`Config::unknown_types`](crate::config::Config::unknown_types) decides what becomes
    /// of it.
    pub fn decode<E: Event>(&self) -> Result<E, HandlerError> {
        self.envelope.decode().map_err(|error| match error.kind() {
            ErrorKind::NewerVersion => HandlerError::newer_version(error),
            _ => HandlerError::undecodable(error),
        })
    }

    /// Decodes the tick of a schedule.
    pub(crate) fn tick(&self) -> Result<Tick, HandlerError> {
        let name = self.envelope.event_type();
        self.envelope
            .decode_data(name)
            .map_err(HandlerError::undecodable)
    }

    /// The error for an event that no variant of an event set takes.
    #[must_use]
    pub fn unexpected(&self) -> HandlerError {
        let name = self.envelope.event_type();
        HandlerError::undecodable(Error::new(
            ErrorKind::UnknownVariant,
            format!("no variant takes `{name}`"),
        ))
    }
}
