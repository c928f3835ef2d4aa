//! What an application tells of its events while it runs.
//!
//! Begin at [`App::notices`](crate::app::App::notices) to subscribe, or at
//! [`AppBuilder::hook`](crate::app::AppBuilder::hook) for a function that is called with each [`Notice`].
//!
//! A [`Tracer`] follows events from their publishers to their handlers.
//!
//! The report and the state of a consumer are in [`consumer`](crate::consumer), health is in
//! [`admin`](crate::admin).

pub(crate) mod ingest;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
pub(crate) mod metrics;
pub(crate) mod notice_stream;
pub(crate) mod notices;
pub(crate) mod presence;
pub(crate) mod report;
pub(crate) mod status;
pub(crate) mod tracer;

pub use notice_stream::NoticeStream;
pub use notices::{NOTICES_KEPT, Notice, NoticeKind};
pub use tracer::{PublishSpan, Publishing, Receiving, Tracer};
