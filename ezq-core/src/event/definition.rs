//! What an event type is: the trait of all events, and how the registry knows one.

use std::any::TypeId;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
// cycle: an envelope is decoded as an event, which converts older versions from their envelopes.
use crate::event::envelope::Envelope;
use crate::event::tick::Tick;

/// A typed event. Implement it by `#[derive(Event)]`.
///
/// Messages carry the type name. Set it with `#[event(type = "...")]`, and the Rust type can be renamed
/// without a migration.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(Event, Serialize, Deserialize)]` to `{Self}`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The type name in messages.
    const TYPE: &'static str;
    /// The version of the payload's shape; at least 1. Defaults to 1.
    const VERSION: u32 = 1;
    /// The oldest version that this type [converts](Self::upcast). Defaults to [`VERSION`](Self::VERSION):
    /// older events are then read as this version, unless the queue has a handler of their own version.
    const OLDEST: u32 = Self::VERSION;
    /// Other type names under which the event is read. Defaults to none.
    const ALIASES: &'static [&'static str] = &[];
    /// The queue of the event, if its publisher names none and no route applies. Defaults to the
    /// application's queue.
    const QUEUE: Option<&'static str> = None;
    /// The name of the [codec](crate::codec::Codec) that writes the event. Defaults to that of its
    /// queue.
    const CODEC: Option<&'static str> = None;

    /// Reads an event of the older version `version`.
    ///
    /// The default reads its data as the current version, with serde's defaults for missing fields.
    /// `#[event(from = Older)]` reads the older type and converts it.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) when the data has another shape.
    fn upcast(envelope: &Envelope, version: u32) -> Result<Self> {
        let _ = version;
        envelope.decode_data(Self::TYPE)
    }

    /// The ordering key, which is stored in the message's headers. Events of one key in one queue are
    /// handled one after another, in the order in which they were stored. Defaults to `None`: no order.
    /// Publishing an event with an empty key is refused.
    fn key(&self) -> Option<String> {
        None
    }
}

/// An event type as the registry knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDescriptor {
    /// The type name in messages.
    pub type_name: &'static str,
    /// The version of the payload's shape.
    pub version: u32,
    /// Other type names under which the event is read.
    pub aliases: &'static [&'static str],
    /// The oldest version that the type converts.
    pub oldest: u32,
    /// The codec of the event, if it names one.
    pub codec: Option<&'static str>,
    /// The queue of the event, if it names one.
    pub queue: Option<&'static str>,
    /// The name of the Rust type, for error texts.
    pub rust_type: &'static str,
    pub(crate) type_id: TypeId,
}

impl EventDescriptor {
    /// The descriptor of an event type.
    #[must_use]
    pub fn of<E: Event>() -> Self {
        Self {
            type_name: E::TYPE,
            version: E::VERSION,
            aliases: E::ALIASES,
            oldest: E::OLDEST,
            queue: E::QUEUE,
            codec: E::CODEC,
            rust_type: std::any::type_name::<E>(),
            type_id: TypeId::of::<E>(),
        }
    }

    /// The descriptor of one schedule's ticks.
    pub(crate) fn tick(type_name: &'static str) -> Self {
        Self {
            type_name,
            version: 1,
            aliases: &[],
            oldest: 1,
            queue: None,
            codec: None,
            rust_type: std::any::type_name::<Tick>(),
            type_id: TypeId::of::<Tick>(),
        }
    }

    /// Whether a type name in a message means this event.
    #[must_use]
    pub fn matches(&self, type_name: &str) -> bool {
        self.type_name == type_name || self.aliases.contains(&type_name)
    }
}

/// Whether a type name in a message means this event.
pub(crate) fn means<E: Event>(type_name: &str) -> bool {
    EventDescriptor::of::<E>().matches(type_name)
}
