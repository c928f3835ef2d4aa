// error: this is not a function that can be a handler
// note: it is async
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

fn ship(_: Paid) {}

fn main() {
    let _ = Handler::on("ship", ship);
}
