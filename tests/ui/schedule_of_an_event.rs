// error: `Created` is not an extractor
// note: a function with a schedule takes its `Tick` first
// at: Created
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_schedule("@daily")]
async fn sweep(_event: Created) {}

fn main() {}
