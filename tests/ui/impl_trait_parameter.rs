// error: `impl Trait` makes a handler generic
// at: impl
use ezq::prelude::*;

#[on_event]
async fn greet(_event: impl Send) {}

fn main() {}
