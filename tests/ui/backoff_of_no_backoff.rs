// error: FailedAttempt
// at: patient
use ezq::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

fn patient(attempt: u32) -> Duration {
    Duration::from_secs(u64::from(attempt))
}

#[on_event(retry(backoff = patient))]
async fn greet(_event: Created) {}

fn main() {}
