//! Postgres for machines that have none: fetched once, into the user's cache.
//!
//! ```text
//! <cache>/postgres-18.6.3-321a60b1875b/      complete: the folder appears by a rename
//! <cache>/postgres-18.6.3-321a60b1875b.part  what the one that fetches has unpacked so far
//! <cache>/postgres-18.6.3-321a60b1875b.lock  held by the one that fetches
//! ```
//!
//! The archive is verified in memory before anything of it is unpacked. The binaries must run before
//! they get their name. So whatever interrupts a fetch, there is either a folder that works or none.
//! The system frees the lock of a process that ends, however it ends; the next one removes what that
//! left behind.

mod binaries;
mod cache;
mod check;
mod download;
mod lock;
mod progress;
#[cfg(test)]
mod tests;
mod unpack;
mod wheel;

pub(super) use binaries::binaries;
