//! The control events, which stop consumers.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::definition::{Event, means};

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
