//! The pipeline of one batch of a relay: send it, then hand on a settlement for each of its deliveries.

use std::sync::Arc;

use crate::consumer::scope::RunScope;
use crate::consumer::workload::batches::RunningBatch;
use crate::consumer::workload::task::{Unsettled, hand_on_settlement};
use crate::dispatch::admission::StartGuard;
use crate::dispatch::work::Work;

/// Handles the deliveries of one batch. The guard `start` is dropped once the relay was called.
pub(crate) async fn handle_together(
    scope: Arc<RunScope>,
    works: Vec<Work>,
    start: StartGuard,
    _running: RunningBatch,
) {
    // If this task panics or is left behind, each of them counts as lost.
    let unsettled: Vec<Unsettled<'_>> = works
        .iter()
        .map(|work| Unsettled::of(&scope, &work.received))
        .collect();

    let settlements = scope.app.dispatcher.dispatch_together(&works, start).await;
    for ((work, unsettled), settle) in works.iter().zip(unsettled).zip(settlements) {
        hand_on_settlement(&scope, &work.received, unsettled, settle);
    }
}
