// error: an event type takes no generic parameters
// at: T
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created<T> {
    id: T,
}

fn main() {}
