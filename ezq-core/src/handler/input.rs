//! What a handler takes: which events it is called with, and how a delivery becomes one.

use crate::delivery::received::Received;
use crate::error::Result;
use crate::event::envelope::Envelope;
use crate::event::pattern::Pattern;
use crate::event::{Event, EventDescriptor};
use crate::handler::outcome::HandlerError;

/// Which events a handler takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Subscription {
    /// Events of these types.
    Types(Vec<EventDescriptor>),
    /// Every event but control events.
    All,
    /// Every event but control events whose type matches one of these.
    Patterns(Vec<Pattern>),
}

impl Subscription {
    /// Events of `types`.
    #[must_use]
    pub fn of(types: Vec<EventDescriptor>) -> Self {
        Self::Types(types)
    }
}

/// A type that can be a handler's first parameter: an event, [`AnyEvent`], or an event set.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "a handler's first parameter is its event",
    note = "add `#[derive(Event, Serialize, Deserialize)]` to `{Self}`; or take `AnyEvent`, or an enum with \
            `#[derive(EventSet)]`",
    note = "a batch is written as `Batch<MyEvent>`, by that name and by no alias; a function that takes one \
            goes to `Handler::on_batch`, not to `Handler::on`"
)]
pub trait FromEvent: Sized + Send + 'static {
    /// Which events a handler of it takes.
    fn subscription() -> Subscription;

    /// Decodes a delivery.
    ///
    /// # Errors
    /// An error if the delivery is no such event, or its data does not fit the type.
    fn from_event(received: &Received) -> Result<Self, HandlerError>;
}

impl<E: Event> FromEvent for E {
    fn subscription() -> Subscription {
        Subscription::Types(vec![EventDescriptor::of::<E>()])
    }

    fn from_event(received: &Received) -> Result<Self, HandlerError> {
        received.decode()
    }
}

/// An event of any type except control events. It is for logs, audits and relays.
#[derive(Debug, Clone)]
pub struct AnyEvent {
    envelope: Envelope,
}

impl AnyEvent {
    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.envelope.event_type()
    }

    /// The payload as JSON text; `None` if it is not JSON.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        self.envelope.data()
    }

    /// Decodes the event as type `E`.
    ///
    /// # Errors
    /// An error if it is not such an event, or its payload does not fit the type.
    pub fn decode<E: Event>(&self) -> Result<E> {
        self.envelope.decode()
    }
}

impl FromEvent for AnyEvent {
    fn subscription() -> Subscription {
        Subscription::All
    }

    fn from_event(received: &Received) -> Result<Self, HandlerError> {
        Ok(Self {
            envelope: received.envelope.clone(),
        })
    }
}
