//! What an application tells of its events.

use crate::app::App;
use crate::observe::notices::NoticeStream;
use crate::publish::publisher::Published;
use std::sync::atomic::Ordering;

impl App {
    /// Subscribes to notices of what becomes of this application's events from now on.
    ///
    /// ```
    /// # use ezq_core::testing::TestApp;
    /// # use ezq_core::{Event, NoticeKind};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Paid {}
    /// # impl Event for Paid { const TYPE: &'static str = "paid"; }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ezq_core::Result<()> {
    /// let app = TestApp::new(|app| app)?;
    /// let mut notices = app.notices();
    /// app.publish(&Paid {}).await?;
    /// let before = notices.recv().await.expect("a notice");
    /// assert!(matches!(before.kind, NoticeKind::Publishing));
    /// let after = notices.recv().await.expect("a notice");
    /// assert!(matches!(after.kind, NoticeKind::Published { .. }));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn notices(&self) -> NoticeStream {
        self.inner.services.notices.stream()
    }

    /// How many notices [hooks](crate::AppBuilder::hook) missed so far, because they were too slow.
    #[must_use]
    pub fn missed_notices(&self) -> u64 {
        self.inner.services.notices.missed.load(Ordering::Relaxed)
    }

    /// Says that the transaction has committed in which an event was published: hooks are told, and
    /// consumers are woken at once. Nobody else can see that commit; events of a transaction that is
    /// never confirmed are handled all the same.
    pub fn confirm(&self, published: &Published) {
        let services = &self.inner.services;
        let Published {
            queue,
            event_id,
            event_type,
            ..
        } = published;
        services
            .notices
            .published(queue, (event_id, event_type), Ok(published.stored()));
        services.engines.of(queue).wake(queue);
    }
}
