// error: a handler takes its event as the first parameter: write `async fn greet(event: MyEvent)`
// at: greet
use ezq::prelude::*;

#[on_event]
async fn greet() {}

fn main() {}
