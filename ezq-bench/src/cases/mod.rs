//! The cases, one file each.

mod broadcast;
mod consume;
mod consume_archive;
mod consume_batch_tx;
mod consume_tx;
mod publish_batch;
mod publish_concurrent;
pub(crate) mod recovery;
mod wide;

use std::future::Future;
use std::pin::Pin;

use crate::Result;
use crate::arguments::Arguments;
use crate::database::Database;
use crate::outcome::{Outcome, Target};

/// Every case, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    publish_batch::CASE,
    publish_concurrent::CASE,
    broadcast::ONE,
    broadcast::THREE,
    broadcast::TEN,
    consume::CASE,
    consume_archive::CASE,
    consume_batch_tx::CASE,
    consume_tx::CASE,
    wide::CASE,
    recovery::DEFAULT,
    recovery::SHORT,
];

/// One thing that is measured.
#[derive(Debug)]
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
