// error: a handler is async: write `async fn greet`
// at: fn
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
fn greet(_event: Created) {}

fn main() {}
