// error: "30 seconds" is not a duration: write a whole number and a unit
// note: "30s"
// at: "30 seconds"
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(timeout = "30 seconds")]
async fn greet(_event: Created) {}

fn main() {}
