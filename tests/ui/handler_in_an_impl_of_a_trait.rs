// error: a_handler_is_a_free_function_move_it_out_of_the_impl
// at: greet
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

trait Greets {
    async fn greet(event: Created);
}

struct Greeter;

impl Greets for Greeter {
    #[on_event]
    async fn greet(_event: Created) {}
}

fn main() {}
