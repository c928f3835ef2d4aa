//! A delivery at work in a consumer: what was read of it, and its lease.

pub(crate) mod lease;
pub(crate) mod received;
