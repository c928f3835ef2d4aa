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

mod broadcast;
mod capture;
mod claim;
mod claim_by_id;
mod commits;
mod config;
mod connector;
mod dead_letters;
mod dedupe;
#[cfg(feature = "embedded")]
pub mod embedded;
mod encoding;
mod engine;
mod environment;
mod error;
mod extend;
mod front;
mod giving_up;
mod grouping;
mod history;
mod inbox;
mod install;
mod keys;
mod link;
mod listen;
mod missing;
mod ownership;
mod plans;
mod pooled;
mod pooler;
mod publish;
mod queues;
mod receipts;
mod removal;
mod replay;
mod retention;
mod runtime;
mod schedules;
mod schema;
mod settle;
mod spoilt;
mod sql;
mod sweep;
mod text;
mod trail;
mod tx;
mod upkeep;
mod url;
mod wake;

pub use capture::{Capture, CapturedTable, Captures};
pub use config::PgmqConfig;
pub use engine::PgmqEngine;
pub use inbox::Inbox;
pub use install::{OLDEST_PGMQ, setup_sql};
pub use keys::index::ordering_sql;
pub use replay::{Replay, ReplayProgress, Replays};
pub use tx::Tx;
