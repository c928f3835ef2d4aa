// error: a batch handler cannot return `u32`
// at: u32
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {
    order: i64,
}

#[on_event]
async fn count(batch: Batch<Paid>) -> u32 {
    batch.events().map(|event| event.order as u32).sum()
}

fn main() {}
