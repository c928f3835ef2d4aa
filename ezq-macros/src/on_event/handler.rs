//! What the checks find and the expansion writes.

use super::{options::Options, parse::Function, schedule::Schedule, signature::Signature};

/// A handler without a mistake, ready to be expanded.
pub(super) struct Handler<'a> {
    pub(super) function: &'a Function,
    pub(super) signature: Signature<'a>,
    pub(super) options: Options,
    /// Only `#[on_schedule]` has one.
    pub(super) schedule: Option<Schedule>,
}
