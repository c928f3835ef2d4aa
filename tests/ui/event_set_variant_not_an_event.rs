// error: `Deleted` is not an event
// note: #[derive(Event, Serialize, Deserialize)]
// at: Deleted
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

struct Deleted;

#[derive(EventSet)]
enum Account {
    Created(Created),
    Deleted(Deleted),
}

#[on_event]
async fn count(_event: Account) {}

fn main() {}
