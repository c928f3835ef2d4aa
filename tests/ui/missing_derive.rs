// error: `Created` is not an event
// note: #[derive(Event, Serialize, Deserialize)]
// at: Created
use ezq::prelude::*;

struct Created {
    id: i64,
}

#[on_event]
async fn greet(_event: Created) {}

fn main() {}
