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
//! | the trait `Event` | `definition.rs` |
//! | the control events that stop a consumer | `control.rs` |
//! | an event with its attributes | `envelope.rs` |
//! | what CloudEvents demands of attributes | `attributes.rs` |
//! | patterns of event types | `pattern.rs` |
//! | payloads that ezq makes: ticks of schedules, changes of tables | `tick.rs`, `change.rs` |
//! | numbers that JSON cannot write | `finite.rs` |

pub(crate) mod attributes;
pub(crate) mod change;
mod control;
mod definition;
pub(crate) mod envelope;
pub(crate) mod finite;
pub(crate) mod pattern;
pub(crate) mod tick;

pub use change::{Change, Operation};
pub(crate) use control::{Control, is_control};
pub use control::{End, Interrupt};
pub(crate) use definition::means;
pub use definition::{Event, EventDescriptor};
pub use envelope::{AttributeValue, Envelope, EnvelopeBuilder, VERSION_ATTRIBUTE};
pub use pattern::{PATTERN_LIMIT, Pattern};
pub use tick::Tick;
