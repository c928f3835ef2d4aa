//! The first poll of a delivery is made by the coordinator. Where the delivery's handlers are known to
//! be [quick](crate::handler::quickness), they run in it, and the delivery is done; else it goes on in a task
//! before it calls any of them.
//!
//! Benchmark case: `consume`.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// What runs a delivery.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What came of starting a delivery.
pub(crate) enum Begun {
    Done,
    Panicked,
    /// It goes on in a task.
    Waits(Running),
}

/// Starts a delivery.
pub(crate) fn begin(mut running: Running) -> Begun {
    let mut context = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context)));
    match polled {
        Ok(Poll::Ready(())) => Begun::Done,
        // Whatever wakes it finds the task's waker: it is polled there at once.
        Ok(Poll::Pending) => Begun::Waits(running),
        Err(_) => Begun::Panicked,
    }
}

/// Whether this poll is the coordinator's: a task's own waker is never the one that does nothing.
pub(crate) fn is_in_place(context: &Context<'_>) -> bool {
    context.waker().will_wake(Waker::noop())
}

/// Goes on in a task, where that is not so already.
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
