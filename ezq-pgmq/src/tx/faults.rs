//! What a handler may do wrong in its own transaction, and the errors for it.
//!
//! Invariant: whatever makes a statement of ezq's or the commit fail, and was left behind by the
//! handler, is the handler's failure and counts as its attempt. What only the store can be blamed
//! for is not. A cancelled commit may have been done: the message shows it.

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind};

use crate::error::{self, missing};

/// The text in the proof's error, if the transaction is not the one that was begun.
pub(crate) const NOT_CURRENT: &str = "not ezq.unit";

/// How far the end of a transaction has come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage<'a> {
    /// Writing marks and acknowledgements, to the handler's own queue.
    Settling(&'a QueueName),
    /// Writing events to a queue.
    Writing(&'a QueueName),
    /// Committing, which runs what the handler's statements deferred.
    Committing,
}

impl<'a> Stage<'a> {
    pub(crate) fn queue(self) -> Option<&'a QueueName> {
        match self {
            Self::Settling(queue) | Self::Writing(queue) => Some(queue),
            Self::Committing => None,
        }
    }
}

/// The handler's error, if the failure is its own; otherwise the failure.
pub(crate) fn by_handler(failure: sqlx::Error, stage: Stage<'_>) -> Result<Error, sqlx::Error> {
    if error::is_no_number(&failure, NOT_CURRENT) {
        return Ok(ended());
    }

    let is_committing = matches!(stage, Stage::Committing);
    let is_settling = matches!(stage, Stage::Settling(_));
    let text = if error::is_aborted(&failure) {
        "a statement of the handler failed in its `Tx`, and the handler returned no error: return \
         it, or run the statement in a savepoint"
    } else if error::is_read_only(&failure) {
        // It began as read-write, which a standby would have refused.
        "the handler made its transaction read-only: leave it writable, since its events and its \
         acknowledgement are written in it"
    } else if error::is_permission(&failure) {
        // Whoever claimed the message may write to its queue.
        "the role of the handler's transaction may not write its events and its acknowledgement: \
         after SET ROLE or SET LOCAL ROLE, RESET ROLE before the handler returns; otherwise grant \
         INSERT on the queue that it publishes to"
    } else if is_settling && error::is_isolated(&failure) {
        // It began as READ COMMITTED, where a changed row is read again.
        "the handler raised the isolation level of its transaction, and its message has changed \
         since, as each renewal of its lease changes it: leave the isolation level to ezq"
    } else if is_committing && error::is_refusal(&failure) && !error::is_cancelled(&failure) {
        "the handler's transaction could not be committed: a deferred trigger or constraint failed"
    } else if missing::is_table(&failure) && !is_ours(&failure) {
        "a trigger uses a table that does not exist"
    } else {
        return Err(failure);
    };

    Ok(Error::new(ErrorKind::Engine, text).with_source(failure))
}

/// What is missing belongs to PGMQ or ezq.
fn is_ours(failure: &sqlx::Error) -> bool {
    missing::of_pgmq(failure).is_some() || missing::of_ezq(failure).is_some()
}

pub(crate) fn not_given_back() -> Error {
    let text = "the handler did not give its `Tx` back: keep it inside the handler, and end its \
                savepoints, before the handler returns";
    Error::new(ErrorKind::Engine, text)
}

pub(crate) fn ended() -> Error {
    let text = "the handler ended its transaction itself, or reset its settings: leave BEGIN, \
                COMMIT, ROLLBACK, RESET ALL and DISCARD to ezq";
    Error::new(ErrorKind::TransactionEnded, text)
}

pub(crate) fn own_message() -> Error {
    let text = "the handler changed or removed its own message in its `Tx`: leave acknowledging to \
                ezq";
    Error::new(ErrorKind::Engine, text)
}
