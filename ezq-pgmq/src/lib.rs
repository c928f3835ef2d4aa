//! The PGMQ engine of ezq: events in the queues of [PGMQ](https://github.com/pgmq/pgmq), in the
//! Postgres a team already runs.
//!
//! ```no_run
//! # async fn run() -> ezq_core::Result<()> {
//! use ezq_pgmq::{PgmqConfig, PgmqEngine};
//!
//! let config = PgmqConfig::url("postgres://app:secret@localhost/app")?;
//! let engine = PgmqEngine::connect(config).await?;
//! # Ok(()) }
//! ```
//!
//! The engine speaks to PGMQ's tables with statements of its own, so that every settlement is
//! fenced by its receipt; locks, columns and functions stay PGMQ's, and other clients can share a
//! queue. Supported: PGMQ from [`OLDEST_PGMQ`] on, as an extension or installed from SQL.
//!
//! # Features
//! The features of `ezq` turn these on; their names are the same.
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls-rustls-ring` (default) | TLS by rustls with ring |
//! | `tls-rustls-aws-lc` | TLS by rustls with aws-lc-rs |
//! | `tls-native-tls` | TLS by the system's library, OpenSSL on Linux |
//! | `metrics` | how many connections are open and in use, beside what ezq-core measures |
//! | `embedded` | the module `embedded`: a development Postgres, where no database is configured |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod capture;
mod claim;
mod config;
mod connection;
mod contract;
mod doctor;
#[cfg(feature = "embedded")]
pub mod embedded;
mod engine;
mod error;
mod holders;
mod inbox;
mod message;
mod publish;
mod replay;
mod retention;
mod schema;
mod settle;
mod sql;
#[doc(hidden)]
pub mod testing;
mod tx;
mod wake;
mod within;

pub use capture::{Capture, CapturedTable, Captures};
pub use config::PgmqConfig;
pub use contract::{
    DropOutcome, DropQueue, DropQueueRequest, PartitionOutcome, PartitionRequest, Partitions,
};
pub use engine::PgmqEngine;
pub use inbox::Inbox;
pub use replay::{Replay, ReplayProgress, Replays};
pub use schema::dropping::QueueContents;
pub use schema::install::{CARRIED_PGMQ, OLDEST_PGMQ};
pub use schema::key_index::ordering_sql;
pub use schema::report::MigrationStatus;
pub use schema::setup::setup_sql;
pub use tx::Tx;
pub use within::PublishWithin;
