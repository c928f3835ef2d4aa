//! One run of one handler: bounded in time, cut off when its lease is lost, in a span of its own.
//!
//! Invariant: no panic of the user's code gets past it, wherever that code is called.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::context::{Context, Received};
use crate::engine::Outgoing;
use crate::handler::Handler;
use crate::outcome::Action;
use crate::publisher::{Publisher, Services};
use crate::{Call, ERROR_TEXT_LIMIT, error_chain};

/// What one run of one handler came to.
pub(crate) enum Ran {
    Done(Vec<Outgoing>),
    /// What its error asks for, and says.
    Failed(Action, String),
    Cancelled,
}

/// Runs a handler once.
pub(crate) async fn run(
    handler: &Handler,
    received: &Arc<Received>,
    services: &Arc<Services>,
    attempt: u32,
    timeout: Option<Duration>,
) -> Ran {
    if received.lease.cancel().is_cancelled() {
        return Ran::Cancelled;
    }
    let context = Context {
        received: Arc::clone(received),
        handler: handler.name.clone(),
        attempt,
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
    };
    let span = info_span!(
        "ezq.handle",
        event_id = received.envelope.id(),
        event_type = received.envelope.event_type(),
        queue = %received.queue,
        handler = %handler.name,
        attempt,
    );
    let call = Call { context, services: Arc::clone(services) };
    let invoked = async {
        let said = (handler.invoke)(call).await;
        said.map_err(|error| (error.action, bounded(&error.to_string())))
    };
    let limited = async {
        let Some(timeout) = timeout else { return invoked.await };
        let timed_out = |_| Err((Action::Retry, format!("timed out after {timeout:?}")));
        tokio::time::timeout(timeout, invoked).await.unwrap_or_else(timed_out)
    };
    let cancelled = received.lease.cancel().cancelled();
    // All of it is the user's code: calling, dropping what is cut off, an error's text.
    let guarded = AssertUnwindSafe(async {
        tokio::select! {
            biased;
            said = limited => Some(said),
            () = cancelled => None,
        }
    });
    match guarded.catch_unwind().instrument(span).await {
        Ok(None) => Ran::Cancelled,
        Err(panic) => {
            let text = format!("panicked: {}", panic_text(&*panic));
            Ran::Failed(Action::Retry, bounded(&text))
        }
        Ok(Some(Err((action, error)))) => Ran::Failed(action, error),
        Ok(Some(Ok(drafts))) => {
            let publisher = Publisher::caused_by(services, received);
            let outgoing = drafts.into_iter().map(|draft| publisher.finish(draft)).collect();
            match outgoing {
                Ok(outgoing) => Ran::Done(outgoing),
                Err(error) => Ran::Failed(Action::Fatal, bounded(&error_chain(&error))),
            }
        }
    }
}

/// An error's text as a message keeps it: cut, and without the NUL that `jsonb` cannot hold.
pub(crate) fn bounded(text: &str) -> String {
    let kept = cut(text).replace('\0', "\u{fffd}");
    cut(&kept).to_owned()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_TEXT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
