//! The test kit: an application on the memory engine, assertions on its events, and parameters for tests
//! that call a handler themselves.
//!
//! | to test | use |
//! |---|---|
//! | a handler alone, as a function | [`context`], [`batch`], [`tick`] |
//! | handlers with publishing, retries and dead letters, without a database | [`TestApp`] |
//! | handlers that take `Tx`, or SQL of your own | `#[ezq::test]`, which gives each test a database |
//!
//! # Moved time
//!
//! `drain` runs all queues to the end, retries included. It does not wait for their pauses: when
//! nothing else is due, it makes the events that wait for a retry due at once, in the store. So a test of
//! five attempts takes as long as five runs of the handler. Events that were scheduled by `after` or `at`
//! stay where they are.
//!
//! The clock of [`TestApp`] is tokio's. Under `#[tokio::test(start_paused = true)]`,
//! `tokio::time::advance` makes scheduled events due and ends leases.
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | the application on the memory engine | `app.rs` |
//! | what was published, scheduled and dead-lettered, for both kits | `assertions.rs` |
//! | `drain`, for both kits | `drain.rs` |
//! | the memory engine, as both need it | `memory.rs` |
//! | parameters of handlers | `parameters.rs` |
#![allow(clippy::panic)]

mod app;
mod assertions;
mod drain;
mod memory;
mod parameters;

pub use app::TestApp;
#[doc(hidden)]
pub use assertions::{Recorded, Records};
#[doc(hidden)]
pub use drain::{Hasten, builder, drain, drain_one, prepare};
pub use parameters::{ContextBuilder, batch, batch_of, context, context_of, tick};
