// error: `Created: serde::Serialize` is not satisfied
// note: #[derive(serde::Serialize)]
// at: Created
// error: `Created: serde::Deserialize<'de>` is not satisfied
// note: #[derive(serde::Deserialize)]
// at: Created
use ezq::prelude::*;

#[derive(Event)]
struct Created {
    id: i64,
}

#[on_event]
async fn greet(_event: Created) {}

fn main() {}
