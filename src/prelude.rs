//! What most programs name: `use ezq::prelude::*;`.

pub use ezq_core::{
    AnyEvent, Context, End, Event as _, HandlerError, HandlerResultExt as _, Interrupt, Publisher,
    State, StopReason,
};
pub use ezq_macros::{Event, EventSet, on_event};
