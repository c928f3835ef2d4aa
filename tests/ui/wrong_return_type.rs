// error: a handler cannot return `u32`
// note: or a `Result` of
// at: u32
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
async fn greet(_event: Created) -> u32 {
    3
}

fn main() {}
