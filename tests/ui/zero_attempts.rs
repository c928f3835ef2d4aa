// error: `max_attempts` must be at least 1
// at: 0
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(retry(max_attempts = 0))]
async fn greet(_event: Created) {}

fn main() {}
