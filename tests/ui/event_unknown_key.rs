// error: unknown key `typ`: did you mean `type`?
// at: typ
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(typ = "user.created")]
struct Created {
    id: i64,
}

#[on_event]
async fn greet(_event: Created) {}

fn main() {}
