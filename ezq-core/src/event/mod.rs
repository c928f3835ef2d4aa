//! What an event is: a serde type with a stable name, its attributes, and the envelope that carries it.
//!
//! Begin at [`Event`], the trait of all events. [`Envelope`] is an event with its attributes, for code
//! that learns the type only at run time. [`End`] and [`Interrupt`] stop consumers, [`Tick`] and
//! [`Change`] are the events of schedules and captured tables.
//!
//! Nothing here knows a queue's messages or a handler. How an envelope becomes a message body is in
//! [`codec`](crate::codec).
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the trait `Event`, and the control events that stop a consumer | this file |
//! | an event with its attributes | `envelope.rs` |
//! | what CloudEvents demands of attributes | `attributes.rs` |
//! | patterns of event types | `pattern.rs` |
//! | payloads that ezq makes: ticks of schedules, changes of tables | `tick.rs`, `change.rs` |
//! | numbers that JSON cannot write | `finite.rs` |

pub(crate) mod attributes;
pub(crate) mod change;
pub(crate) mod envelope;
pub(crate) mod finite;
pub(crate) mod pattern;
pub(crate) mod tick;

pub use change::{Change, Operation};
pub use envelope::{AttributeValue, Envelope, EnvelopeBuilder, VERSION_ATTRIBUTE};
pub use pattern::{PATTERN_LIMIT, Pattern};
pub use tick::Tick;

use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    fn upcast(envelope: &Envelope, version: u32) -> crate::error::Result<Self> {
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

/// A control event that stops the consumer that receives it, once every event that was due before it is
/// handled.
///
/// One `End` stops one consumer. [`App::stop_all`](crate::app::App::stop_all) stops all consumers
/// of a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct End {
    /// How long running handlers may go on; after that they are cancelled, and their messages go back
    /// to the queue. In messages it is a number of seconds. Defaults to no limit.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "secs",
        deserialize_with = "from_secs"
    )]
    pub timeout: Option<Duration>,
    /// Whether it stops every consumer that was running when it was published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

impl End {
    /// An `End` that gives running handlers this much time.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..Self::default()
        }
    }

    /// An `End` that stops every consumer that was running when it was published.
    #[must_use]
    pub fn for_all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Sets how long running handlers may go on. `None` means no limit.
    ///
    /// ```
    /// # use ezq_core::event::End;
    /// # use std::time::Duration;
    /// let end = End::for_all().timeout(Duration::from_secs(30));
    /// assert!(end.all);
    /// assert_eq!(end.timeout, Some(Duration::from_secs(30)));
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }
}

impl Event for End {
    const TYPE: &'static str = "ezq.end";
    // The class names in Python ezq: in its package `ezq`, and in the later package `ezvent`.
    const ALIASES: &'static [&'static str] = &["EZQEndEvent", "EZEndEvent"];
}

/// A control event that stops the consumer that receives it, when its turn comes: running handlers are
/// cancelled at once, and their messages go back to the queue. It is then settled, so it stops no
/// other consumer.
///
/// It has its place in the queue, like any event:
///
/// - Every event that was due before it is begun first. So it waits for events that wait for the
///   consumer's concurrency, for a handler's limit, or for another event of their ordering key.
/// - A batch that still gathers begins as it is.
/// - No event after it is begun.
///
/// To stop a consumer of this process at once, use its
/// [handle](crate::consumer::ConsumerHandle::interrupt) or a second signal. They leave the
/// `Interrupt` to another consumer. Make one with `Interrupt::default()`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
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
    // Python ezq writes seconds as a float, and a negative or endless one is no `Duration`.
    let Some(secs) = Option::<f64>::deserialize(from)? else {
        return Ok(None);
    };
    Duration::try_from_secs_f64(secs)
        .map(Some)
        .map_err(|error| D::Error::custom(format_args!("timeout in seconds: {error}")))
}

/// A control event that a consumer received.
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

/// Whether a type name in a message means this event.
pub(crate) fn means<E: Event>(type_name: &str) -> bool {
    EventDescriptor::of::<E>().matches(type_name)
}
