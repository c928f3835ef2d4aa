// error: `#[on_schedule]` goes on a function: write `async fn my_task()`
// at: struct
use ezq::prelude::*;

#[on_schedule("@daily")]
struct Sweeper;

fn main() {}
