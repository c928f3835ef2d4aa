//! A library of Rust, as a child process uses it.

use std::any::Any;

use crate::error::Result;
use crate::job::Job;

/// A running worker. It stops when this is dropped, or with the process.
pub(crate) type Worker = Box<dyn Any + Send>;

/// How many jobs one call of a library's bulk publish gets.
pub(crate) const BULK: usize = 1_000;

/// How many jobs a worker handles at once, unless its library has a better number.
pub(crate) const CONCURRENCY: usize = 64;

pub(crate) trait Peer: Sized {
    /// Creates the library's tables in an empty database.
    async fn install(url: &str) -> Result<()>;

    /// Connects as one publisher.
    async fn connect(url: &str) -> Result<Self>;

    /// Stores one job. It is committed when this returns.
    async fn publish(&mut self, job: Job) -> Result<()>;

    /// Stores jobs by the library's own call for many.
    async fn publish_many(&mut self, jobs: Vec<Job>) -> Result<()>;

    /// Starts a worker, whose handler is [`crate::load::handle`].
    async fn work(url: &str) -> Result<Worker>;
}
