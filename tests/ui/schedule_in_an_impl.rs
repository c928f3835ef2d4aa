// error: a_handler_is_a_free_function_move_it_out_of_the_impl
// at: greet
use ezq::prelude::*;

struct Greeter;

impl Greeter {
    #[on_schedule("@daily")]
    async fn greet() {}
}

fn main() {}
