// error: `Paid` is not a batch
// note: a function of one event goes to `Handler::on`
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn ship(_: Paid) {}

fn main() {
    let _ = Handler::on_batch("ship", ship);
}
