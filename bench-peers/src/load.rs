//! What the handler of every library does: it counts, takes the latency, or holds the job.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::job::{Job, now_us};

/// How many handlers began.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// Whether handlers never end, as those of a worker that is to be killed.
static HOLDS: AtomicBool = AtomicBool::new(false);
/// From the publish to the start of the handler, in milliseconds.
static LATENCIES: Mutex<Vec<f64>> = Mutex::new(Vec::new());

/// Whether latencies are kept. A backlog has none that mean anything.
static TIMES: AtomicBool = AtomicBool::new(false);

/// The handler.
pub(crate) async fn handle(job: &Job) {
    if TIMES.load(Ordering::Relaxed) {
        let late = now_us().saturating_sub(job.sent_us);
        LATENCIES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(late as f64 / 1000.0);
    }
    BEGUN.fetch_add(1, Ordering::Relaxed);

    if HOLDS.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

pub(crate) fn hold() {
    HOLDS.store(true, Ordering::Relaxed);
}

pub(crate) fn take_times() {
    TIMES.store(true, Ordering::Relaxed);
}

pub(crate) fn begun() -> u64 {
    BEGUN.load(Ordering::Relaxed)
}

pub(crate) fn latencies() -> Vec<f64> {
    LATENCIES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
