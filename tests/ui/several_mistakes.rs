// error: unknown key `queu`
// at: queu
// error: a handler is async
// at: fn
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event(queu = "mail")]
fn greet(_event: Created) {}

fn main() {}
