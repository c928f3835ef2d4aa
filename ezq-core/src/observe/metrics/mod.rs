//! What ezq measures, for whichever exporter a program has installed.
//!
//! The feature `metrics` turns it on, through the facade of the crate
//! [`metrics`](https://docs.rs/metrics). `CATALOGUE` lists every
//! metric; the names are a contract, which `docs/metrics.md` explains.
//!
//! # Source files
//!
//! `recorded.rs` measures. `unrecorded.rs` has the same interface for a build without the feature: its
//! types have no size and its functions no code. So callers need no `cfg`.
//!
//! Fast path: handles are made once for each queue, handler and event type, and kept. Looking one up by
//! its name would take about 1,500 instructions for each event.

#[cfg(feature = "metrics")]
mod catalogue;
#[cfg(feature = "metrics")]
mod publishing;
#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

#[cfg(feature = "metrics")]
pub use catalogue::{CATALOGUE, Kind, Metric, SECONDS_BUCKETS, SIZE_BUCKETS, describe, names};
#[cfg(not(feature = "metrics"))]
pub(crate) use unrecorded::{
    ConsumersGauge, DeliveryMetrics, HandlerMetrics, KnownType, PublishMetrics, QueueMetrics,
    RunMetrics, SampledGauges, Since, dead_lettered, ticked,
};
#[cfg(feature = "metrics")]
pub(crate) use {
    publishing::{KnownType, PublishMetrics},
    recorded::{
        ConsumersGauge, DeliveryMetrics, HandlerMetrics, QueueMetrics, RunMetrics, SampledGauges,
        Since, dead_lettered, ticked,
    },
};

/// What one attempt of a handler came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    Done,
    Retried,
    Snoozed,
    Discarded,
    Dead,
    Cancelled,
    StoreFailed,
}

/// What became of an event that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishedAs {
    Stored,
    Duplicate,
    Failed,
    /// It goes out with a transaction or a settlement.
    HandedOver,
}
