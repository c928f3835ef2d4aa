// error: a handler is a plain Rust function: drop the `extern`
// at: extern
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
async extern "C" fn greet(_event: Created) {}

fn main() {}
