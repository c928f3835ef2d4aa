//! What an event is: any serde type with a stable name. Control events stop a consumer.

pub(crate) mod attributes;
pub(crate) mod change;
pub(crate) mod envelope;
pub(crate) mod finite;
pub(crate) mod pattern;
pub(crate) mod tick;

use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use crate::event::envelope::Envelope;
use crate::event::tick::Tick;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A typed event; implemented by `#[derive(Event)]`.
///
/// The type name is what goes over the wire, so that renaming the Rust type needs no migration
/// once it is set with `#[event(type = "...")]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(Event, Serialize, Deserialize)]` to `{Self}`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name on the wire.
    const TYPE: &'static str;
    /// The version of the payload's shape, from 1.
    const VERSION: u32 = 1;
    /// The oldest version that is [converted](Self::upcast) to this one. Defaults to its own:
    /// then older ones are read as this one too, but leave those to the handlers of their own
    /// versions where a queue has some.
    const OLDEST: u32 = Self::VERSION;
    /// Other names under which it is read.
    const ALIASES: &'static [&'static str] = &[];
    /// The queue it goes to when the publisher names none.
    const QUEUE: Option<&'static str> = None;
    /// The [codec](crate::Codec) that writes it, by its name; else its queue's does.
    const CODEC: Option<&'static str> = None;

    /// Reads an event of an older version, which the envelope tells. Defaults to reading its data
    /// as the current version, with serde's defaults for what is missing;
    /// `#[event(from = Older)]` reads the older type and converts it.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) when the data has another shape.
    fn upcast(envelope: &Envelope, version: u32) -> crate::error::Result<Self> {
        let _ = version;
        envelope.decode_data(Self::TYPE)
    }

    /// The ordering key, stored in the event's headers: events of one key in one queue are handled
    /// one after another, in the order in which they were stored; others beside them. An empty key
    /// is refused: an event without one has `None`.
    fn key(&self) -> Option<String> {
        None
    }
}

/// An event type as the registry knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventDescriptor {
    /// The name on the wire.
    pub type_name: &'static str,
    /// The version of the payload's shape.
    pub version: u32,
    /// Other names under which it is read.
    pub aliases: &'static [&'static str],
    /// The oldest version that is converted to it.
    pub oldest: u32,
    /// The codec that writes it, if it has one of its own.
    pub codec: Option<&'static str>,
    /// The queue it goes to, if it has one of its own.
    pub queue: Option<&'static str>,
    /// The Rust type's name, for messages.
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

    /// Whether a type name on the wire means this event.
    #[must_use]
    pub fn matches(&self, type_name: &str) -> bool {
        self.type_name == type_name || self.aliases.contains(&type_name)
    }
}

/// Stops the consumer that receives it, after everything that was due before it is handled.
///
/// One `End` stops one consumer; see `App::stop_all` for all consumers of a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How long running handlers may take; then they are cancelled and their messages returned.
    /// On the wire in seconds. Defaults to no limit.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "secs",
        deserialize_with = "from_secs"
    )]
    pub timeout: Option<Duration>,
    /// Whether it is meant for every consumer that was running when it was published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

impl End {
    /// An end that gives running handlers a time.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            all: false,
        }
    }
}

impl Event for End {
    const TYPE: &'static str = "ezq.end";
    // The class names of Python ezq, in its package `ezq` and in its later one, `ezvent`.
    const ALIASES: &'static [&'static str] = &["EZQEndEvent", "EZEndEvent"];
}

/// Stops the consumer that receives it when its turn comes: what still runs is cancelled at once, and
/// its messages returned. It is settled itself, so it stops no other consumer.
///
/// It takes its turn in the queue, as every event. What was due before it is begun first, and an
/// event whose handlers wait for nothing is handled. So it waits for events that wait for a place
/// among what the consumer handles at once, for a handler's limit, or for another of their ordering
/// key; a batch that still gathers begins as it is. Nothing that stands behind it starts. To stop a
/// consumer of this process at once, use its [handle](crate::ConsumerHandle::interrupt) or a second
/// signal: they leave the event to another consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {}

impl Event for Interrupt {
    const TYPE: &'static str = "ezq.interrupt";
    const ALIASES: &'static [&'static str] = &["EZQInterruptEvent", "EZInterruptEvent"];
}

#[allow(clippy::ref_option)]
fn secs<S: Serializer>(timeout: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    timeout.map(|timeout| timeout.as_secs_f64()).serialize(to)
}

fn from_secs<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(secs) = Option::<f64>::deserialize(from)? else {
        return Ok(None);
    };
    Duration::try_from_secs_f64(secs)
        .map(Some)
        .map_err(|error| D::Error::custom(format_args!("timeout in seconds: {error}")))
}

/// What a control event asks of a consumer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Control {
    End(End),
    Interrupt,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End(_) => "End",
            Self::Interrupt => "Interrupt",
        })
    }
}

/// Whether a type name means a control event.
pub(crate) fn is_control(type_name: &str) -> bool {
    means::<End>(type_name) || means::<Interrupt>(type_name)
}

/// Whether a type name on the wire means this event.
pub(crate) fn means<E: Event>(type_name: &str) -> bool {
    EventDescriptor::of::<E>().matches(type_name)
}
