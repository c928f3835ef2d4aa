// error: an interval is at least "1s"
// at: "500ms"
use ezq::prelude::*;

#[on_schedule(every = "500ms")]
async fn sweep() {}

fn main() {}
