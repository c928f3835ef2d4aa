// error: a handler is a free function, without `self`
// note: `State<T>`
// at: &
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

struct Greeter;

impl Greeter {
    #[on_event]
    async fn greet(&self, _event: Created) {}
}

fn main() {}
