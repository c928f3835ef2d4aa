// error: a handler is called by the consumer, which cannot vouch for `unsafe`: drop it
// at: unsafe
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
async unsafe fn greet(_event: Created) {}

fn main() {}
