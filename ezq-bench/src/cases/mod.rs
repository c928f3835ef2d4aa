//! The cases, one file each.

mod bloat;
mod bloat_latency;
mod bloat_released;
mod broadcast;
#[cfg(feature = "redis")]
mod brokers;
mod capture;
mod consume;
mod consume_archive;
mod consume_batch_tx;
mod consume_delayed;
mod consume_tx;
mod dispatch;
mod growth;
mod idle;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_ingest;
mod latency;
mod many_queues;
mod memory;
#[cfg(feature = "nats")]
mod nats;
mod ordered;
mod overview;
mod processes;
mod publish;
mod publish_concurrent;
mod recovery;
mod relay;
mod restart;
mod rotation;
mod wide;

use crate::case::Case;
use crate::children;
use crate::error::Result;

/// Every case of the table, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    publish::ONE,
    publish::BATCH,
    publish::BULK,
    publish_concurrent::CASE,
    broadcast::ONE,
    broadcast::THREE,
    broadcast::TEN,
    capture::CASE,
    consume::CASE,
    consume_archive::CASE,
    consume_batch_tx::CASE,
    consume_batch_tx::NOOP,
    consume_tx::CASE,
    consume_delayed::CASE,
    wide::CASE,
    processes::CASE,
    ordered::MANY,
    ordered::HOT,
    latency::CASE,
    idle::CASE,
    many_queues::CASE,
    memory::CASE,
    recovery::DEFAULT,
    recovery::SHORT,
    restart::CASE,
    dispatch::CASE,
    bloat::CASE,
    bloat_latency::CASE,
    bloat_released::CASE,
    #[cfg(feature = "kafka")]
    kafka::RELAY,
    #[cfg(feature = "nats")]
    nats::RELAY,
    #[cfg(feature = "nats")]
    nats::ENGINE,
    #[cfg(feature = "kafka")]
    kafka_ingest::CASE,
];

/// The cases that run only when they are named: how cost grows, and what needs a broker.
pub(crate) const GROWTH: &[Case] = &[
    growth::QUEUED,
    growth::HANDLERS,
    growth::QUEUES,
    overview::CASE,
    rotation::CASE,
    relay::PLAIN,
    relay::KEYS,
    processes::PARTITIONED,
    #[cfg(feature = "metrics")]
    processes::METRICS,
    #[cfg(feature = "redis")]
    brokers::RELAY,
    #[cfg(feature = "redis")]
    brokers::INGEST,
];

/// Does what a child process is started for, if this process is one.
pub(crate) async fn work_as_child() -> Option<Result<()>> {
    let (role, url) = children::role()?;
    let words: Vec<&str> = role.split(' ').collect();
    Some(match words[..] {
        ["recovery", queue, lease] => recovery::work(&url, queue, lease).await,
        ["processes" | children::UNMEASURED, queue] => processes::work(&url, queue).await,
        ["memory", queue, events] => memory::work(&url, queue, events).await,
        ["dispatch", side, events] => dispatch::work(side, events).await,
        _ => Err(format!("`{role}` is nothing that a child does").into()),
    })
}
