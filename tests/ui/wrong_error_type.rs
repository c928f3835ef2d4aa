// error: Failure
// at: Result<(), Failure>
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

struct Failure;

#[on_event]
async fn greet(_event: Created) -> Result<(), Failure> {
    Err(Failure)
}

fn main() {}
