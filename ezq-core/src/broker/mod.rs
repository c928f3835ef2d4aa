//! The contract between ezq and a message broker: [`Sink`] for events that leave, [`Source`] for
//! messages that come, and what they carry.
//!
//! A broker is no [engine](crate::engine): nothing is leased from it and nothing is settled in it. A
//! [`Relay`](crate::relay::Relay) moves the events of a queue to a sink. An ingest stores the messages of
//! a source as events of a queue.
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | what takes events, and what it must promise | `sink.rs` |
//! | a batch in pipelines, in the order of its keys | `pipelines.rs` |
//! | what gives messages, and what it must promise | `source.rs` |
//! | an event on its way to a broker | `outbound.rs` |
//! | a message from a broker, and the event in it | `inbound.rs` |
//! | where a message stands in its partition | `position.rs` |
//! | the attributes of an event as headers (binary content mode) | `binary.rs` |

mod binary;
mod inbound;
mod outbound;
mod pipelines;
mod position;
mod sink;
mod source;

pub(crate) use binary::is_attribute;
pub use inbound::Inbound;
pub use outbound::Outbound;
pub use pipelines::send_in_pipelines;
pub use position::SourcePosition;
pub use sink::{SendOutcome, Sink, SinkCapabilities};
pub use source::{Arrival, Source, SourceCapabilities};
