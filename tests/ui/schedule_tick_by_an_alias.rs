// error: `ezq::Tick` is not an extractor
// note: takes its `Tick` first, by that name and by no alias
// at: Moment
use ezq::prelude::*;

type Moment = Tick;

#[on_schedule("@daily")]
async fn daily(_moment: Moment) {}

fn main() {}
