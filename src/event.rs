//! What an event is: a serde type with a stable name, its attributes, and the envelope that carries it.
//!
//! Begin at [`Event`], a trait and the derive macro that implements it. [`Envelope`] is an event with
//! its attributes, for code that learns the type only at run time. [`End`] and [`Interrupt`] stop
//! consumers, [`Tick`] and [`Change`] are the events of schedules and captured tables.
//!
//! This is the module of `ezq-core`, with the derive macros.

#[doc(inline)]
pub use ezq_core::event::*;

pub use crate::macros::{Event, EventSet};
