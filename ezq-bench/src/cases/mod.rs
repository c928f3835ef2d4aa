//! The cases, one file each.

mod bloat;
mod broadcast;
mod capture;
mod consume;
mod consume_archive;
mod consume_batch_tx;
mod consume_delayed;
mod consume_tx;
pub(crate) mod dispatch;
mod growth;
mod idle;
mod latency;
pub(crate) mod memory;
mod ordered;
pub(crate) mod processes;
mod publish;
mod publish_concurrent;
pub(crate) mod recovery;
mod restart;
mod wide;

use std::future::Future;
use std::pin::Pin;

use crate::Result;
use crate::arguments::Arguments;
use crate::database::Database;
use crate::outcome::{Outcome, Target};

/// Every case of the table, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    publish::ONE,
    publish::BATCH,
    publish_concurrent::CASE,
    broadcast::ONE,
    broadcast::THREE,
    broadcast::TEN,
    capture::CASE,
    consume::CASE,
    consume_archive::CASE,
    consume_batch_tx::CASE,
    consume_tx::CASE,
    consume_delayed::CASE,
    wide::CASE,
    processes::CASE,
    ordered::MANY,
    ordered::HOT,
    latency::CASE,
    idle::CASE,
    memory::CASE,
    recovery::DEFAULT,
    recovery::SHORT,
    restart::CASE,
    dispatch::CASE,
    bloat::CASE,
];

/// What runs only when it is named: how cost grows.
pub(crate) const GROWTH: &[Case] = &[growth::QUEUED, growth::HANDLERS, growth::QUEUES];

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Option<Target>,
    pub(crate) run: for<'a> fn(&'a Arguments, &'a Database) -> CaseFuture<'a>,
}

pub(crate) type CaseFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<Outcome>>> + 'a>>;

/// Ends a run whose count is wrong: its time means nothing.
pub(crate) fn check(what: &str, seen: u64, wanted: usize) -> Result<()> {
    if seen == wanted as u64 {
        return Ok(());
    }
    Err(format!("{what} is {seen} and should be {wanted}").into())
}
