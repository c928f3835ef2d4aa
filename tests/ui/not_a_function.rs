// error: `#[on_event]` goes on a function: write `async fn on_my_event(event: MyEvent)`
// at: struct
use ezq::prelude::*;

#[on_event]
struct Greeter;

fn main() {}
