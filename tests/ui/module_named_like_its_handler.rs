// error: the name `ship` is defined multiple times
// others
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

mod ship {}

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

#[on_event]
async fn ship(_: Paid) {}

fn main() {}
