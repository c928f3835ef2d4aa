#![doc = include_str!("../README.md")]

mod connect;
pub mod prelude;

pub use connect::{Ezq, EzqBuilder};
pub use ezq_core::*;
#[doc(inline)]
pub use ezq_macros::{Event, EventSet, on_event};
pub use ezq_pgmq as pgmq;
pub use sqlx;
pub use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use ezq_core::private as __private;
