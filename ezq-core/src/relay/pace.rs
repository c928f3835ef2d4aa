//! How fast a relay sends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spaces batches so that on average no more events go out than allowed.
pub(super) struct Pace {
    /// The time that one event takes up.
    each: Duration,
    /// When the next batch may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            each: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::default(),
        }
    }

    /// Waits until a batch of so many events may go.
    pub(super) async fn wait_for(&self, count: usize) {
        let takes = self.each * u32::try_from(count).unwrap_or(u32::MAX);
        let start = {
            // Reserved under the lock, so that batches side by side do not count on the same time.
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = next.map_or(now, |next| next.max(now));
            *next = Some(start + takes);
            start
        };
        sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_are_spaced_by_what_went_before() {
        let pace = Pace::new(100);
        let began = Instant::now();
        for _ in 0..3 {
            pace.wait_for(50).await;
        }
        // Two batches of 50 went before the third.
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
