// error: `order` is given twice: keep one of them
// at: order
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(order = 1, order = 2)]
async fn greet(_event: Created) {}

fn main() {}
