// error: "0 9 * *" is not a cron expression: write minute, hour, day of the month, month and day of the week, such as "0 9 * * MON"
// at: "0 9 * *"
use ezq::prelude::*;

#[on_schedule("0 9 * *", tz = "Europe/Paris")]
async fn report(_tick: Tick) {}

fn main() {}
