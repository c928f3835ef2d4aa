// error: a batch handler cannot return `u32`
// note: a `Vec` with a `Result` for each event
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn ship(_: Batch<Paid>) -> u32 {
    7
}

fn main() {
    let _ = Handler::on_batch("ship", ship);
}
