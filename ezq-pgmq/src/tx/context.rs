//! What the parts of a transaction know of it besides its connection.

use ezq_core::message::QueueName;

use crate::engine::PgmqEngine;

/// A transaction's engine, the queue of its deliveries, and the name under which the server shows it.
pub(super) struct TxContext {
    pub(super) engine: PgmqEngine,
    pub(super) queue: QueueName,
    pub(super) name: String,
}
