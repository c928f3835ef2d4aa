//! Waiting for a time that may not be set.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

/// Waits until a deadline has passed; forever if there is none.
pub(crate) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
