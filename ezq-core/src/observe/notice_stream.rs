//! Notices as an async stream.
//!
//! The receiver lives inside the future of its next notice, which is kept between polls. So a poll that
//! ends without a notice leaves its waker registered, and dropping `recv` loses nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::unconstrained;
use tokio_util::sync::ReusableBoxFuture;

use crate::observe::notices::{Entry, Notice};

type Received = (Result<Entry, RecvError>, broadcast::Receiver<Entry>);

/// Notices as they come; [`App::notices`](crate::app::App::notices) subscribes.
///
/// It is a `Stream` too, for the combinators of `futures` and `tokio-stream`. The stream ends once the
/// application is gone.
///
/// ```
/// # use ezq_core::event::Event;
/// # use ezq_core::testing::TestApp;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Paid {}
/// # impl Event for Paid { const TYPE: &'static str = "paid"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq_core::Result<()> {
/// use futures_util::StreamExt;
///
/// # let app = TestApp::new(|app| app)?;
/// let types = app.notices().filter_map(|notice| async move { notice.event_type.clone() });
/// let mut types = types.boxed();
/// app.publish(&Paid {}).await?;
/// assert_eq!(types.next().await.as_deref(), Some("paid"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct NoticeStream {
    next: ReusableBoxFuture<'static, Received>,
    missed: u64,
}

impl NoticeStream {
    pub(crate) fn new(receiver: broadcast::Receiver<Entry>) -> Self {
        Self {
            next: ReusableBoxFuture::new(receive(receiver)),
            missed: 0,
        }
    }

    /// The next notice; `None` once the application is gone. Between two calls the newest
    /// [`NOTICES_KEPT`](crate::observe::NOTICES_KEPT) notices are kept.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Arc<Notice>> {
        poll_fn(|context| self.poll_notice(context)).await
    }

    /// The next notice if there is one already.
    pub fn try_recv(&mut self) -> Option<Arc<Notice>> {
        // Without the runtime's budget: a task that has used it up is told that there is nothing.
        unconstrained(self.recv()).now_or_never().flatten()
    }

    /// How many notices this stream has missed so far because it was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn poll_notice(&mut self, context: &mut Context<'_>) -> Poll<Option<Arc<Notice>>> {
        loop {
            let (received, receiver) = ready!(self.next.poll(context));
            self.next.set(receive(receiver));

            match received {
                Ok(Entry::Notice(notice)) => return Poll::Ready(Some(notice)),
                Ok(Entry::Flush(_)) => {}
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for NoticeStream {
    type Item = Arc<Notice>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_notice(context)
    }
}

async fn receive(mut receiver: broadcast::Receiver<Entry>) -> Received {
    let received = receiver.recv().await;
    (received, receiver)
}
