//! A delivery that is being handled: its decoded event, and its lease.

pub(crate) mod lease;
pub(crate) mod received;
