//! Claiming: leasing what is due, looking into idle queues, renewing leases, and leasing one message by its id.

pub(crate) mod by_id;
pub(crate) mod cursor;
pub(crate) mod extend;
pub(crate) mod keys;
pub(crate) mod look;
pub(crate) mod partitions;
mod request;
mod take;

pub(crate) use request::{Batch, Claim, Claimed, delivery, read, restart_grace};
