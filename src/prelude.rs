//! The names that most programs use: `use ezq::prelude::*;`.

pub use crate::Ezq;
pub use ezq_core::event::{End, Event, Interrupt, Tick};
pub use ezq_core::handler::{AnyEvent, Batch, Context, HandlerError, HandlerResultExt, State};
pub use ezq_core::publish::Publisher;
pub use ezq_core::schedule::Schedule;
pub use ezq_macros::{Event, EventSet, on_event, on_schedule};
pub use ezq_pgmq::{PublishWithin, Tx};
