// error: `Deleted` is not an extractor
// note: for several events
// note: #[derive(EventSet)]
// at: Deleted
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[derive(Event, Serialize, Deserialize)]
struct Deleted {
    id: i64,
}

#[on_event]
async fn greet(_created: Created, _deleted: Deleted) {}

fn main() {}
