//! Waking consumers, here and in other processes, when something may have become readable, and telling
//! them what operators want.
//!
//! NOTIFY takes a database-wide lock at commit, so it is part of no publish and of no caller's
//! transaction. A task sends it afterwards on a dedicated connection, for all queues at once, at
//! most once per window. All of this is a hint: consumers poll, and a lost notification costs
//! latency only.

mod cancellations;
mod capture_poll;
pub(crate) mod commits;
pub(crate) mod feeds;
pub(crate) mod listen;
mod notify;
pub(crate) mod orders;
pub(crate) mod pauses;
mod tables;

pub(crate) use notify::{CHANNEL, Wake};
