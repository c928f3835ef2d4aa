//! Making the events of a handler due that was resumed, a little after the consumer has heard of it.
//!
//! Whoever resumes a handler does this at once. But a consumer that has not heard of it yet may still put
//! events aside, or settle such events later. Without this they would wait for their time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::engine::{Engine, QueuePauses};
use crate::error::{Result, error_chain};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// How long to wait for settlements that are on their way.
const SETTLING: Duration = Duration::from_secs(2);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Releases what was put aside for handlers that were resumed, until it is dropped.
pub(crate) async fn release_resumed(
    engine: Arc<dyn Engine>,
    queue: QueueName,
    mut receiver: watch::Receiver<QueuePauses>,
) {
    let mut paused = handlers(&receiver.borrow_and_update());
    let mut resumed = BTreeSet::new();
    let mut pause = SETTLING;

    loop {
        tokio::select! {
            changed = receiver.changed() => {
                if changed.is_err() {
                    // The engine is closed. The consumer ends this task with itself.
                    return std::future::pending().await;
                }
                let now = handlers(&receiver.borrow_and_update());
                resumed.extend(paused.difference(&now).cloned());
                // One that is paused again keeps its events aside.
                resumed.retain(|handler| !now.contains(handler));
                paused = now;
                pause = SETTLING;
            }
            () = sleep(pause), if !resumed.is_empty() => {
                pause = match release(&*engine, &queue, &mut resumed).await {
                    Ok(()) => SETTLING,
                    Err(error) => {
                        warn!(%queue, error = %error_chain(&error), "events of a handler that was \
                              resumed are still put aside: will try again");
                        RETRY
                    }
                };
            }
        }
    }
}

/// Releases what was put aside for handlers; those that are done are removed.
async fn release(
    engine: &dyn Engine,
    queue: &QueueName,
    resumed: &mut BTreeSet<HandlerName>,
) -> Result<()> {
    let Some(pauses) = engine.pauses() else {
        resumed.clear();
        return Ok(());
    };
    while let Some(handler) = resumed.first() {
        pauses.release_held(queue, handler).await?;
        resumed.pop_first();
    }
    Ok(())
}

fn handlers(pauses: &QueuePauses) -> BTreeSet<HandlerName> {
    let handlers = pauses
        .iter()
        .filter_map(|pause| pause.target.handler.clone());
    handlers.collect()
}
