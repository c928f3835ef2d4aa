// error: "Orders;" is not a queue name: write 1 to 47 letters, digits or
// at: "Orders;"
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(queue = "Orders;")]
struct Created {
    id: i64,
}

fn main() {}
