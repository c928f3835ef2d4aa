// error: a handler cannot return `u32`
// note: return `()`, an event
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn ship(_: Paid) -> u32 {
    7
}

fn main() {
    let _ = Handler::on("ship", ship);
}
