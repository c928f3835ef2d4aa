// error: unknown policy "never": write "skip" or "fire_once"
// at: "never"
use ezq::prelude::*;

#[on_schedule("@daily", missed = "never")]
async fn sweep() {}

fn main() {}
