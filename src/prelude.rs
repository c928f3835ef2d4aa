//! The names that most programs use: `use ezq::prelude::*;`.

pub use crate::Ezq;
pub use ezq_core::{
    AnyEvent, Batch, Context, End, Event, HandlerError, HandlerResultExt, Interrupt, Publisher,
    Schedule, State, Tick,
};
pub use ezq_macros::{Event, EventSet, on_event, on_schedule};
pub use ezq_pgmq::{PublishWithin, Tx};
