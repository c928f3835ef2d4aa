// error: an interval has no time zone: leave out `tz`, or give a cron expression
// at: tz
use ezq::prelude::*;

#[on_schedule(every = "30s", tz = "Europe/Paris")]
async fn sweep() {}

fn main() {}
