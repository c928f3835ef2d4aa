// error: a variant holds exactly one event: write `Deleted(MyEvent)`
// at: Deleted
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[derive(EventSet)]
enum Account {
    Created(Created),
    Deleted,
}

#[on_event]
async fn count(_event: Account) {}

fn main() {}
