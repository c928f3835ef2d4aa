// error: unknown key `timout`: did you mean `timeout`?
// at: timout
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(timout = "30s")]
async fn greet(_event: Created) {}

fn main() {}
