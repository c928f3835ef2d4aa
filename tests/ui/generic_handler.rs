// error: a handler takes no generic parameters
// note: an enum with `#[derive(EventSet)]`
// at: T
use ezq::prelude::*;

#[on_event]
async fn greet<T>(_event: T) {}

fn main() {}
