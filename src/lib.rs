#![doc = include_str!("../README.md")]
//!
//! # Where a name is
//!
//! - [`prelude`] has what a program with handlers imports at once.
//! - The root has the same names, and those with which a program builds an application, publishes,
//!   consumes and fails.
//! - Any other name is in the module of its topic: [`admin::Health`], [`handler::Backoff`],
//!   [`pgmq::Inbox`]. Most names of the root are in such a module as well.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "clap")]
pub mod command;
mod connect;
pub mod event;
mod macros;
pub mod prelude;
mod tables;
pub mod testing;

// Of other crates, what is in the public interface: docs/stability.md lists it.
pub use ezq_core::{async_trait, chrono, serde_json};
pub use sqlx;
pub use tokio_util::sync::CancellationToken;

#[doc(inline)]
pub use ezq_core::{
    admin, app, broker, codec, config, consumer, engine, error, handler, ingest, memory, message,
    observe, publish, relay, schedule,
};
pub use ezq_pgmq as pgmq;

pub use connect::{Ezq, EzqBuilder};
#[doc(inline)]
pub use ezq_core::app::{App, AppBuilder, Module};
#[doc(inline)]
pub use ezq_core::config::Config;
#[doc(inline)]
pub use ezq_core::consumer::{Consumer, ConsumerHandle};
#[doc(inline)]
pub use ezq_core::error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use ezq_core::event::{End, Envelope, Event, Interrupt, Tick};
#[doc(inline)]
pub use ezq_core::handler::{
    AnyEvent, Batch, Context, Handler, HandlerError, HandlerResultExt, State,
};
#[doc(inline)]
pub use ezq_core::message::QueueName;
#[doc(inline)]
pub use ezq_core::publish::Publisher;
#[doc(inline)]
pub use ezq_core::schedule::Schedule;
#[doc(inline)]
pub use ezq_pgmq::{PublishWithin, Tx};
pub use macros::{Event, EventSet, on_event, on_schedule, test};

/// What the macros expand to; not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::testing::{parameter, run};
    pub use ezq_core::private::*;
    pub use ezq_macros::{a_handler_is_a_free_function_move_it_out_of_the_impl, beside};
}

/// The pages under `docs/`. Their examples are documentation tests.
#[cfg(doctest)]
mod pages {
    macro_rules! page {
        ($name:ident, $path:literal) => {
            #[doc = include_str!(concat!("../docs/", $path))]
            mod $name {}
        };
    }
    page!(handlers, "handlers.md");
    page!(python_ezq, "migrating/python-ezq.md");
    page!(django_broadcaster, "migrating/django-broadcaster.md");
    page!(django_eventbus, "migrating/django-eventbus.md");
    page!(celery_events, "migrating/celery-events.md");
    page!(production, "production.md");
    page!(testing, "testing.md");
    page!(brokers, "brokers.md");
    page!(partitions, "partitions.md");
}
