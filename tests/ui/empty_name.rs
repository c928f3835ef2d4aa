// error: `name` must not be empty
// at: ""
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(name = "")]
async fn greet(_event: Created) {}

fn main() {}
