// error: unknown key `timezone`: the keys are `every`, `tz`
// at: timezone
use ezq::prelude::*;

#[on_schedule("@daily", timezone = "Europe/Paris")]
async fn sweep() {}

fn main() {}
