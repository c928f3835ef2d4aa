// error: `batch(..)` is for handlers of batches: take `Batch<MyEvent>` as the first parameter
// at: batch
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {
    order: i64,
}

#[on_event(batch(size = 10))]
async fn book(event: Paid) {
    println!("{}", event.order);
}

fn main() {}
