//! [`JetStreamEngine`]: queues as streams of JetStream.
//!
//! # How a queue is kept
//!
//! | stream | subject | what |
//! |---|---|---|
//! | `ezq_<queue>`, a work queue | `ezq.<queue>.ready.now` | messages that are due |
//! | | `ezq.<queue>.ready.due` | messages that the server has moved there when they fell due |
//! | | `ezq.<queue>.wait.new.<id>` | messages that are stored for later |
//! | | `ezq.<queue>.wait.again.<id>` | messages that wait for another attempt |
//! | `ezq-dead_<queue>` | `ezqdead.<queue>` | dead letters |
//! | none | `ezqwake.<queue>` | wakes who waits |
//!
//! One durable consumer, `workers`, leases from `ezq.<queue>.ready.*`. A message is immutable, so a retry
//! is a copy with the new marks. It is stored before the original is acknowledged.
//!
//! # Source files
//!
//! | to see | open |
//! |---|---|
//! | how to connect, and what can be set | `builder.rs` |
//! | names of streams and subjects | `names.rs` |
//! | requests to JetStream | `api.rs` |
//! | how queues are made and found | `queues.rs` |
//! | what a message holds beside its body | `wire.rs` |
//! | the server's clock, seen from here | `server_clock.rs` |
//! | what this process has leased, and until when | `leases.rs`, `keeper.rs` |
//! | the three steps of a message | `publish.rs`, `lease.rs`, `settle.rs` |
//! | the engine contract | `contract.rs`, `counts.rs`, `dead_letters.rs`, `wakeups.rs` |

mod api;
mod builder;
mod contract;
mod counts;
mod dead_letters;
mod keeper;
mod lease;
mod leases;
mod names;
mod publish;
mod queues;
mod server_clock;
mod settle;
mod state;
mod wakeups;
mod wire;

pub use builder::JetStreamBuilder;
pub use contract::JetStreamEngine;
