//! Notices of an application: subscribing to them, and confirming what ezq cannot see.

use std::sync::atomic::Ordering;

use crate::app::App;
use crate::observe::notice_stream::NoticeStream;
use crate::publish::published::Published;

impl App {
    /// Subscribes to the notices of this application from now on: what becomes of its events.
    ///
    /// ```
    /// # use ezq_core::event::Event;
    /// # use ezq_core::observe::NoticeKind;
    /// # use ezq_core::testing::TestApp;
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
        NoticeStream::new(self.inner.services.notices.subscribe())
    }

    /// How many notices the [hooks](crate::app::AppBuilder::hook) have missed so far, because they
    /// were slow.
    #[must_use]
    pub fn missed_notices(&self) -> u64 {
        self.inner.services.notices.missed.load(Ordering::Relaxed)
    }

    /// Confirms that your transaction, in which an event was published, has committed. Hooks get their
    /// notice, and consumers wake at once.
    ///
    /// ezq cannot see that commit itself. Events of a transaction that is never confirmed are handled
    /// all the same, at the next poll.
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
