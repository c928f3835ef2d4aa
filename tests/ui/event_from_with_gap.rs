// error: `from` names an event of another version than 2: events of the versions between it and version 3 could not be read, so come from the version just before
use ezq::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "priced")]
struct First {}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "priced", version = 3, from = First)]
struct Third {}

impl From<First> for Third {
    fn from(_: First) -> Self {
        Self {}
    }
}

fn main() {}
