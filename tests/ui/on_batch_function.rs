// error: `ezq::Batch<Paid>` is not an event
// note: goes to `Handler::on_batch`, not to `Handler::on`
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn ship(_: Batch<Paid>) {}

fn main() {
    let _ = Handler::on("ship", ship);
}
