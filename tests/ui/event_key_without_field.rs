// error: `Created` has no field `user_id`: its fields are `id`
// at: user_id
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(key = user_id)]
struct Created {
    id: i64,
}

fn main() {}
