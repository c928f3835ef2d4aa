// error: `Mailer` is not an extractor
// note: State<
// at: Mailer
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

struct Mailer;

#[on_event]
async fn greet(_event: Created, _mailer: Mailer) {}

fn main() {}
