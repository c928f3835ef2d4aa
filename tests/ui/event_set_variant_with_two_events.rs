// error: a variant holds exactly one event: write `Both(MyEvent)`
// at: Both(Created, Created)
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[derive(EventSet)]
enum Account {
    Both(Created, Created),
}

fn main() {}
