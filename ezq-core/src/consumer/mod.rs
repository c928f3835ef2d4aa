//! The consumer: fetches from one queue, dispatches, settles, and stops when asked to.
//!
//! Begin at [`Consumer`], which [`App::consumer`](crate::app::App::consumer) makes. Run it to its
//! [`Report`], or spawn it and keep the [`ConsumerHandle`].
//!
//! # Source files
//!
//! This folder is the only place that knows both an engine and the dispatcher.
//!
//! | module | what it does |
//! |---|---|
//! | `builder`, `settings` | the options of a consumer, checked when it begins |
//! | `all` | a consumer for each queue of a program |
//! | `restart` | runs the consumer again after a failure |
//! | `run` | one run, from `prepare` to the report |
//! | `coordinator` | waits for what happens next and routes it to the three parts below |
//! | `fetcher` | claims deliveries |
//! | `workload` | what is buffered, waits in a lane, or is at work |
//! | `cancelling`, `cancel_orders` | which events an operator has cancelled, and what becomes of them |
//! | `pausing` | what is paused, and what becomes of it |
//! | `stop` | why the run stops, and how far the stop has come |
//! | `settle` | the task that settles what handlers are done with |
//! | `leases`, `renewer` | what is leased, and the task that renews it |
//!
//! The three parts know each other as far as they must, but never the coordinator. No import cycle is
//! left inside this folder.

mod all;
mod builder;
mod cancel_orders;
mod cancelling;
mod coordinator;
mod fetcher;
pub(crate) mod handle;
mod intake;
mod leases;
mod pausing;
mod prepare;
mod renewer;
mod restart;
mod run;
mod scope;
mod settings;
mod settle;
pub(crate) mod stop;
mod warnings;
mod workload;

pub use crate::observe::report::{Counts, Report, ReportOfAll, StopReason};
pub use crate::observe::status::ConsumerState;
pub use all::ConsumersHandle;
pub use builder::Consumer;
pub use handle::ConsumerHandle;
