//! Control events: what an `End` or an `Interrupt` means for a consumer, and how it is settled.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::consumer::scope::RunScope;
use crate::consumer::stop::deadline;
use crate::consumer::stop::listener::StopListener;
use crate::delivery::received::Received;
use crate::dispatch::work::Work;
use crate::engine::Settle;
use crate::error::error_chain;
use crate::event::{Control, End};
use crate::logging::error;
use crate::message::settlement::Progress;
use crate::observe::report::Disposition;
use crate::shared::Shared;

/// How long an `End` for all consumers stays in the queue, for those that are too busy to meet it.
const KEPT_FOR_ALL: TimeDelta = TimeDelta::minutes(10);
/// How long a consumer that began after such an `End` leaves it to the others before it looks again.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(1);

/// Whether every consumer is to meet this control event.
pub(crate) fn is_for_all(control: &Control) -> bool {
    matches!(control, Control::End(End { all: true, .. }))
}

/// The settlement of an `End` for all by a consumer that began after it.
pub(crate) fn leave_to_others(received: &Received) -> Settle {
    if received.clock.at - received.enqueued_at > KEPT_FOR_ALL {
        return Settle::Ack {
            outgoing: Vec::new(),
        };
    }
    Settle::Retry {
        after: LEFT_TO_OTHERS,
        progress: Progress::default(),
        outgoing: Vec::new(),
    }
}

/// Runs the handlers of a control event, then settles it.
pub(crate) async fn finish(
    scope: &RunScope,
    work: Work,
    control: Control,
    stops: &mut StopListener,
) {
    let is_for_all = is_for_all(&control);
    let received = Arc::clone(&work.received);

    // In a task: a handler that blocks its thread must not keep this loop from hearing a stop.
    let mut handlers = JoinSet::new();
    let handled = run_handlers(Arc::clone(&scope.app), work, control);
    handlers.spawn(handled.in_current_span());

    let settle = loop {
        if stops.consumer_deadline().is_some() {
            received.lease.cancel().cancel();
        }
        let left = stops.handler_deadline();
        tokio::select! {
            // A handler that is done counts as done, whatever comes at the same moment.
            biased;
            // A panic is no reason to lose the event: another consumer gets it.
            Some(settle) = handlers.join_next() => break settle.unwrap_or_else(|_| {
                scope.log_panic();
                Settle::Release
            }),
            // The deadlines above change with each request.
            _ = stops.next() => {}
            // The consumer did stop: the event has done its work even if its handlers do not end.
            () = deadline::passed(left) => break Settle::Ack { outgoing: Vec::new() },
        }
    };

    // One for all was released when it was met.
    if !is_for_all {
        let receipt = received.receipt.clone();
        scope.settle_unhandled(receipt, settle, Disposition::Control);
    }
}

/// Runs the handlers of a control event; returns its settlement.
async fn run_handlers(app: Arc<Shared>, work: Work, control: Control) -> Settle {
    let queue = &work.received.queue;
    let outgoing = app.dispatcher.control(&work).await;

    let mut settle = Settle::Ack {
        outgoing: Vec::new(),
    };
    let published = if is_for_all(&control) {
        // It was released when it was met, so no settlement carries the events.
        app.services.publish_returned(outgoing).await
    } else {
        settle = Settle::Ack { outgoing };
        app.publish_elsewhere(queue, &mut settle).await
    };

    if let Err(error) = published {
        let error = error_chain(&error);
        error!(%queue, error, "cannot publish the events that a handler of `{control}` returned");
    }
    settle
}
