// error: take it by value: write `event: Created`
// at: &
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
async fn greet(event: &Created) {
    println!("{}", event.id);
}

fn main() {}
