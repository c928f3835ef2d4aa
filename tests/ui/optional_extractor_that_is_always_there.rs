// error: `Option<ezq::Publisher>` is not an extractor
// note: `Option` goes around `State<T>`
// at: Option<Publisher>
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

#[on_event]
async fn ship(_: Paid, _: Option<Publisher>) {}

fn main() {}
