//! The task of one delivery: dispatch it, then hand its settlement on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, warn};

use super::lease::Leases;
use super::report::{Counters, Tally};
use super::run::Item;
use super::settle::Settling;
use crate::app::Inner;
use crate::engine::Receipt;
use crate::error_chain;
use crate::settlement::{Progress, Settle};

/// Handles one delivery, in a task of its own.
pub(super) async fn handle(
    app: Arc<Inner>,
    leases: Arc<Leases>,
    settler: mpsc::Sender<Settling>,
    counters: Arc<Counters>,
    item: Item,
) {
    let mut settle = app.dispatcher.dispatch(&item.work).await;
    if !leases.holds(&item.receipt) {
        return counters.add(Tally::Lost);
    }
    let cancelled = item.work.received.lease.cancel().is_cancelled();
    if let Err(error) = app.publish_elsewhere(&item.work.received.queue, &mut settle).await {
        warn!(error = %error_chain(&error), "events could not be published: the event comes again");
        settle = Settle::Retry {
            after: Duration::from_secs(1),
            progress: Progress::default(),
            outgoing: Vec::new(),
        };
    }
    let tally = match settle {
        Settle::Ack { .. } => Tally::Handled,
        Settle::DeadLetter { .. } => Tally::DeadLettered,
        Settle::Retry { .. } | Settle::Release if cancelled => Tally::Cancelled,
        Settle::Retry { .. } => Tally::Retried,
        Settle::Release => Tally::Returned,
    };
    send(&settler, item.receipt, settle, tally).await;
}

/// Hands a settlement on.
pub(super) async fn send(
    settler: &mpsc::Sender<Settling>,
    receipt: Receipt,
    settle: Settle,
    tally: Tally,
) {
    let settling = Settling { receipt, settle, tally, since: Instant::now() };
    if settler.send(settling).await.is_err() {
        error!("the settling task is gone: the event will come again");
    }
}
