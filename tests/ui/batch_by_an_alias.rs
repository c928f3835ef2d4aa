// error: `ezq::Batch<Paid>` is not an event
// note: a batch is written as `Batch<MyEvent>`, by that name and by no alias
// at: Many
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

type Many = Batch<Paid>;

#[on_event]
async fn sum(_batch: Many) {}

fn main() {}
