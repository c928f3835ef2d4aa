//! The permit of a handler with a limit: how many of its runs there may be at once in the
//! application.

use std::future::Future;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::dispatch::admission::Admission;

/// The permit of one run; `None` for a handler without a limit.
pub(crate) type Permit<'l> = Option<SemaphorePermit<'l>>;

/// Waits until a handler may run. `None` if the consumer stops first, or nobody waits for the run any
/// more.
pub(crate) async fn permit<'l>(
    limit: Option<&'l Semaphore>,
    admission: &Admission,
    cancelled: impl Future<Output = ()>,
) -> Option<Permit<'l>> {
    let Some(limit) = limit else {
        return Some(None);
    };
    if let Ok(permit) = limit.try_acquire() {
        return Some(Some(permit));
    }

    // In a box: a delivery that waits for nothing needs no room for it.
    let waiting = Box::pin(async {
        tokio::select! {
            // A permit that is there is taken, as above.
            biased;
            permit = limit.acquire() => permit.ok(),
            // Nothing new begins.
            () = admission.stopped() => None,
            // The lease is lost.
            () = cancelled => None,
        }
    });
    waiting.await.map(Some)
}
