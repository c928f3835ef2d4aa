// error: a schedule has a cron expression or an interval: leave out one of them
// at: every
use ezq::prelude::*;

#[on_schedule("@daily", every = "30s")]
async fn sweep() {}

fn main() {}
