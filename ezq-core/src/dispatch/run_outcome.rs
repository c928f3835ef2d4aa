//! What one run of one handler came to, as the steps after it see it.

use crate::engine::{Outgoing, UnitOfWork};
use crate::handler::outcome::HandlerErrorKind;

/// What an error of the user's code asks for, and its text.
pub(super) type Failure = (HandlerErrorKind, String);

/// What one run of one handler came to.
pub(super) enum RunOutcome {
    /// It succeeded. Its transaction, if it has one, is still to be committed, with its events.
    Done(Vec<Outgoing>, Option<Box<dyn UnitOfWork>>),
    /// It succeeded, and its transaction has marked it done and published its events.
    Marked,
    /// It succeeded, and its transaction has settled the whole delivery.
    Settled,
    /// It failed.
    Failed(HandlerErrorKind, String),
    /// Its lease was lost, or its consumer was interrupted.
    Cancelled,
    /// The store kept it from running, or may have kept it from committing, with this error: no
    /// attempt of the handler, but counted on the message.
    StoreFailed(String),
}
