//! The job that every library stores: about 200 bytes as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const TEXT: &str = "A payload of about two hundred bytes, which is what an order, a mail or a \
                    webhook looks like, if it names its subject and leaves the rest to be read.";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) n: u64,
    /// When it was published, in microseconds of the machine's clock.
    pub(crate) sent_us: u64,
    pub(crate) text: String,
}

impl Job {
    /// A job that is published now.
    pub(crate) fn now(n: u64) -> Self {
        Self {
            n,
            sent_us: now_us(),
            text: TEXT.to_owned(),
        }
    }
}

/// The machine's clock in microseconds. Publisher and worker are on the same machine.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}
