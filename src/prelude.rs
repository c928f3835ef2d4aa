//! The names that most programs use: `use ezq::prelude::*;`.
//!
//! An import by name wins over these. So beside `anyhow`, import its trait without its name, which leaves
//! `Context` to ezq: `use anyhow::Context as _;`.

pub use crate::Ezq;
pub use ezq_core::event::{End, Event, Interrupt, Tick};
pub use ezq_core::handler::{AnyEvent, Batch, Context, HandlerError, HandlerResultExt, State};
pub use ezq_core::publish::Publisher;
pub use ezq_core::schedule::Schedule;
pub use ezq_macros::{Event, EventSet, on_event, on_schedule};
pub use ezq_pgmq::{PublishWithin, Tx};
