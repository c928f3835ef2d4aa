// error: say when: write `#[on_schedule("0 9 * * MON")]` or `#[on_schedule(every = "30s")]`
// at: #[on_schedule]
use ezq::prelude::*;

#[on_schedule]
async fn sweep() {}

fn main() {}
