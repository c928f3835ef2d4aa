//! The list of all metrics: a contract, which `docs/metrics.md` shows as a table.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The names of the metrics.
pub mod names {
    /// How long events waited for their handlers.
    pub const WAIT: &str = "ezq_wait_seconds";
    /// How long handlers ran.
    pub const HANDLING: &str = "ezq_handling_seconds";
    /// Handlers that run now.
    pub const IN_FLIGHT: &str = "ezq_handlers_in_flight";
    /// Attempts of handlers.
    pub const ATTEMPTS: &str = "ezq_attempts_total";
    /// Deliveries that ended.
    pub const DELIVERIES: &str = "ezq_deliveries_total";
    /// Events that became dead letters.
    pub const DEAD_LETTERS: &str = "ezq_dead_letters_total";
    /// How long claims took.
    pub const CLAIM: &str = "ezq_claim_seconds";
    /// Events that claims brought.
    pub const CLAIMED: &str = "ezq_claimed_total";
    /// How long settling a batch took.
    pub const SETTLE: &str = "ezq_settle_seconds";
    /// Settlements in a batch.
    pub const SETTLE_BATCH: &str = "ezq_settle_batch_size";
    /// How long publishing calls took.
    pub const PUBLISH: &str = "ezq_publish_seconds";
    /// Events that were published.
    pub const PUBLISHED: &str = "ezq_published_total";
    /// How late ticks of schedules were.
    pub const SCHEDULE_LAG: &str = "ezq_schedule_lag_seconds";
    /// Ticks of schedules.
    pub const SCHEDULE_TICKS: &str = "ezq_schedule_ticks_total";
    /// Consumers of this process.
    pub const CONSUMERS: &str = "ezq_consumers";
    /// Events of a queue, sampled by one process.
    pub const QUEUE_EVENTS: &str = "ezq_queue_events";
    /// How long the oldest event that can be handled has waited, sampled by one process.
    pub const QUEUE_OLDEST: &str = "ezq_queue_oldest_claimable_seconds";
    /// Age of the oldest snapshot, sampled by one process.
    pub const SNAPSHOT: &str = "ezq_oldest_snapshot_seconds";
    /// Whether this process samples.
    pub const SAMPLER: &str = "ezq_queue_sampler";
    /// Open connections to the database.
    pub const CONNECTIONS_OPEN: &str = "ezq_connections_open";
    /// Connections that are in use.
    pub const CONNECTIONS_BUSY: &str = "ezq_connections_busy";
    /// Connections that could not be opened.
    pub const CONNECTION_FAILURES: &str = "ezq_connection_failures_total";
}

/// Bounds for the histograms whose names end in `_seconds`, from 1 ms to 1 h: events may wait for long.
pub const SECONDS_BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];
/// Bounds for the histograms whose names end in `_size`.
pub const SIZE_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0];

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// How often a value fell into each bucket.
    Histogram,
}

/// One metric of the [`CATALOGUE`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its unit: `seconds` or `count`.
    pub unit: &'static str,
    /// Its labels. Each has a bounded number of values.
    pub labels: &'static [&'static str],
    /// What it measures.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

/// Every metric.
pub const CATALOGUE: &[Metric] = &[
    metric(
        names::WAIT,
        Kind::Histogram,
        "seconds",
        &["queue", "handler"],
        "time from when an event was due to the start of its handler",
    ),
    metric(
        names::HANDLING,
        Kind::Histogram,
        "seconds",
        &["queue", "handler"],
        "time that one run of a handler took",
    ),
    metric(
        names::IN_FLIGHT,
        Kind::Gauge,
        "count",
        &["queue", "handler"],
        "runs of a handler that have begun and not ended",
    ),
    metric(
        names::ATTEMPTS,
        Kind::Counter,
        "count",
        &["queue", "handler", "event_type", "outcome"],
        "attempts of a handler at an event, by what they came to",
    ),
    metric(
        names::DELIVERIES,
        Kind::Counter,
        "count",
        &["queue", "disposition"],
        "deliveries that ended, by how",
    ),
    metric(
        names::DEAD_LETTERS,
        Kind::Counter,
        "count",
        &["queue", "handler", "reason"],
        "events that became dead letters",
    ),
    metric(
        names::CLAIM,
        Kind::Histogram,
        "seconds",
        &["queue", "outcome"],
        "time that a claim took, whether it brought events or not",
    ),
    metric(
        names::CLAIMED,
        Kind::Counter,
        "count",
        &["queue"],
        "events that claims brought",
    ),
    metric(
        names::SETTLE,
        Kind::Histogram,
        "seconds",
        &["queue", "outcome"],
        "time that settling a batch took",
    ),
    metric(
        names::SETTLE_BATCH,
        Kind::Histogram,
        "count",
        &["queue"],
        "settlements in a batch",
    ),
    metric(
        names::PUBLISH,
        Kind::Histogram,
        "seconds",
        &["queue", "outcome"],
        "time that a call took that publishes one or several events",
    ),
    metric(
        names::PUBLISHED,
        Kind::Counter,
        "count",
        &["queue", "event_type", "outcome"],
        "events that were published, by what became of them",
    ),
    metric(
        names::SCHEDULE_LAG,
        Kind::Histogram,
        "seconds",
        &["schedule"],
        "time from when a tick was due to when its event was stored",
    ),
    metric(
        names::SCHEDULE_TICKS,
        Kind::Counter,
        "count",
        &["schedule", "outcome"],
        "ticks of a schedule, by whether they fired",
    ),
    metric(
        names::CONSUMERS,
        Kind::Gauge,
        "count",
        &["queue", "state"],
        "consumers of this process that have not ended, by state",
    ),
    metric(
        names::QUEUE_EVENTS,
        Kind::Gauge,
        "count",
        &["queue", "state"],
        "events that a queue holds, by state, up to 100,000; zero in processes that do not sample",
    ),
    metric(
        names::QUEUE_OLDEST,
        Kind::Gauge,
        "seconds",
        &["queue"],
        "how long the oldest event that can be handled has waited; zero in processes that do not sample",
    ),
    metric(
        names::SNAPSHOT,
        Kind::Gauge,
        "seconds",
        &[],
        "age of the oldest snapshot or prepared transaction; zero in processes that do not sample",
    ),
    metric(
        names::SAMPLER,
        Kind::Gauge,
        "count",
        &[],
        "1 in the process that samples the queues, 0 in others that were asked to",
    ),
    metric(
        names::CONNECTIONS_OPEN,
        Kind::Gauge,
        "count",
        &["purpose"],
        "open connections to the database",
    ),
    metric(
        names::CONNECTIONS_BUSY,
        Kind::Gauge,
        "count",
        &["purpose"],
        "connections that are in use",
    ),
    metric(
        names::CONNECTION_FAILURES,
        Kind::Counter,
        "count",
        &["purpose"],
        "connections that could not be opened",
    ),
];

/// Tells the installed recorder what each metric means. An exporter shows it beside the values.
///
/// Install the recorder before the application is built: ezq keeps the handles that it got first.
pub fn describe() {
    for metric in CATALOGUE {
        let Metric {
            name, unit, help, ..
        } = *metric;
        let unit = match unit {
            "seconds" => Unit::Seconds,
            _ => Unit::Count,
        };
        match metric.kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
}
