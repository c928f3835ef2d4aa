// error: an event that comes `from` an older one has a `version` of at least 2: write `version = 2` beside it
// at: from
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Old {
    id: i32,
}

#[derive(Event, Serialize, Deserialize)]
#[event(from = Old)]
struct New {
    id: i64,
}

impl From<Old> for New {
    fn from(old: Old) -> Self {
        Self { id: old.id.into() }
    }
}

fn main() {}
