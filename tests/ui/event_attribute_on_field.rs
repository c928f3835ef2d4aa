// error: `#[event(...)]` belongs above the whole type, not inside it
// at: event
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    #[event(key)]
    id: i64,
}

fn main() {}
