//! What the consumers of an application share to tell of themselves, by `presence.rs`.

use tokio::sync::{Mutex, Notify, Semaphore};

/// The state of telling.
#[derive(Debug)]
pub(crate) struct Telling {
    /// Of all consumers of the application one tells; the others wait for it to end.
    pub(super) teller: Semaphore,
    /// Of all consumers of the application one samples the queues, by `sampling.rs`.
    pub(super) sampler: Semaphore,
    /// A consumer has begun.
    pub(super) begun: Notify,
    /// Held while a statement is under way: a consumer that is removed must not be noted after that.
    pub(super) writing: Mutex<()>,
    pub(super) host: String,
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            teller: Semaphore::new(1),
            sampler: Semaphore::new(1),
            begun: Notify::new(),
            writing: Mutex::default(),
            host: host(),
        }
    }
}

/// The name of this machine.
fn host() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named = ["HOSTNAME", "COMPUTERNAME"].map(|name| std::env::var(name).ok());
    let names = std::iter::once(from_kernel).chain(named).flatten();
    names
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
