// error: a handler is async: write `async fn sweep`
// at: fn
use ezq::prelude::*;

#[on_schedule("@daily")]
fn sweep() {}

fn main() {}
