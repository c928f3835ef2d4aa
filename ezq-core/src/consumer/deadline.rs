//! Waiting for what may not be there.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

use crate::consumer::prepare::Wakeups;

pub(crate) async fn changed(wakeups: &mut Wakeups) -> bool {
    match wakeups {
        Some(wakeups) => wakeups.changed().await.is_ok(),
        None => pending().await,
    }
}

pub(crate) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
