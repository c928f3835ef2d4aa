//! Polling in place: the coordinator makes the first poll of each delivery. Where the delivery's
//! handlers are known to be [quick](crate::handler::quickness), they run in this poll, and the
//! delivery needs no task. Otherwise it goes on in a task before it calls any of them.
//!
//! Fast path. Benchmark case: `consume`, 75,692 events/s, and 65,375 if every delivery gets a task.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The future that handles a delivery.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the first poll of a delivery came to.
pub(crate) enum Begun {
    Done,
    Panicked,
    /// The delivery goes on in a task.
    Waits(Running),
}

/// Polls a delivery for the first time.
pub(crate) fn begin(mut running: Running) -> Begun {
    let mut context = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context)));
    match polled {
        Ok(Poll::Ready(())) => Begun::Done,
        // No wake-up is lost: its task polls it at once, and leaves a waker of its own.
        Ok(Poll::Pending) => Begun::Waits(running),
        Err(_) => Begun::Panicked,
    }
}

/// Whether this poll is the coordinator's: a task's own waker is never the one that does nothing.
fn is_in_place(context: &Context<'_>) -> bool {
    context.waker().will_wake(Waker::noop())
}

/// Returns once the delivery runs in a task.
pub(crate) async fn in_a_task() {
    poll_fn(|context| {
        if is_in_place(context) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Runs a future and drops a guard once the future has begun: with its first poll, or, if the
/// coordinator made that one and it did not end the future, with the first poll in a task.
///
/// Both are borrowed, since what is passed by value takes its space twice.
pub(crate) async fn guard_start<T>(
    guard: &mut Option<impl Sized>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> T {
    poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        if polled.is_ready() || !is_in_place(context) {
            guard.take();
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn what_is_done_at_once_is_done() {
        assert!(matches!(begin(Box::pin(ready(()))), Begun::Done));
        assert!(matches!(begin(Box::pin(pending())), Begun::Waits(_)));
    }

    #[test]
    fn a_panic_ends_nothing_but_the_delivery() {
        let running: Running = Box::pin(async { std::panic::panic_any("a trial") });
        assert!(matches!(begin(running), Begun::Panicked));
    }

    #[tokio::test]
    async fn what_is_to_go_on_in_a_task_does() {
        let Begun::Waits(running) = begin(Box::pin(in_a_task())) else {
            panic!("it was done in place")
        };
        tokio::spawn(running).await.unwrap();
    }
}
