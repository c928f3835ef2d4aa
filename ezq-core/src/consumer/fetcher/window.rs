//! How much is fetched ahead: twice the concurrency, and more only while it is handled faster than
//! it is fetched.
//!
//! A larger claim costs less an event. But what is fetched and waits is kept from other consumers,
//! and counts a delivery if this process dies; so the window grows only when a full fetch finds its
//! consumer with nothing to do, and what then waits longer than a moment goes back.

use std::time::Duration;

use tokio::time::Instant;

/// What the window grows to at most, whatever the concurrency.
const MOST: usize = 1024;
/// How many bytes of bodies a fetch may bring for the window to grow.
const MOST_BYTES: usize = 1 << 20;
/// How long more than twice the concurrency may wait.
const MOMENT: Duration = Duration::from_secs(1);

/// The window of one consumer, in events.
#[derive(Debug)]
pub(crate) struct Window {
    least: usize,
    now: usize,
    filled: Instant,
    /// The fetch before brought as much as was asked for.
    full: bool,
}

impl Window {
    pub(crate) fn new(concurrency: usize) -> Self {
        let least = concurrency.saturating_mul(2);
        Self {
            least,
            now: least,
            filled: Instant::now(),
            full: false,
        }
    }

    /// How much may be held unhandled.
    pub(crate) fn size(&self) -> usize {
        self.now
    }

    /// How much to ask for at once: a part, so that the next is fetched while this one is handled.
    pub(crate) fn share(&self) -> usize {
        (self.now / 2).max(self.least)
    }

    /// With how much waiting to ask for more.
    pub(crate) fn low(&self) -> usize {
        if self.now > self.least {
            self.now / 2
        } else {
            self.now / 4
        }
    }

    /// A fetch has come, full or not; it found its consumer with nothing to do, or not.
    pub(crate) fn filled(&mut self, full: bool, starved: bool, bytes: usize) {
        self.filled = Instant::now();
        let starved = starved && std::mem::replace(&mut self.full, full);
        if bytes > MOST_BYTES {
            self.now = self.least;
        } else if full && starved && bytes <= MOST_BYTES / 2 {
            self.now = self.now.saturating_mul(2).min(MOST).max(self.least);
        }
    }

    /// When more than [`least`](Self::least) has waited for too long.
    pub(crate) fn due(&self) -> Instant {
        self.filled + MOMENT
    }

    /// How much may wait for longer than a moment.
    pub(crate) fn least(&self) -> usize {
        self.least
    }

    /// It is handled more slowly than it was.
    pub(crate) fn shrink(&mut self) {
        self.now = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn grows_while_it_starves_and_only_then() {
        let mut window = Window::new(8);
        window.filled(true, true, 100);
        assert_eq!(
            window.size(),
            16,
            "the first finds nothing to do, whatever there is to be done"
        );
        window.filled(true, false, 100);
        window.filled(false, true, 100);
        window.filled(true, true, 100);
        assert_eq!((window.size(), window.share()), (16, 16));
        window.filled(true, true, 100);
        assert_eq!((window.size(), window.share()), (32, 16));
        for _ in 0..20 {
            window.filled(true, true, 100);
        }
        assert_eq!((window.size(), window.share()), (MOST, MOST / 2));
        window.filled(true, true, MOST_BYTES);
        assert_eq!(window.size(), MOST);
        window.filled(true, false, MOST_BYTES + 1);
        assert_eq!(window.size(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn a_high_concurrency_is_not_cut() {
        let mut window = Window::new(1000);
        window.filled(true, true, 100);
        window.filled(true, true, 100);
        assert_eq!(window.size(), 2000);
    }
}
