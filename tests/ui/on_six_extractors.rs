// error: this is not a function that can be a handler
// note: for more than five extractors write `#[on_event]`, which takes any number
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn ship(_: Paid, _: State<u8>, _: State<u16>, _: State<u32>, _: State<u64>, _: Context, _: Publisher) {}

fn main() {
    let _ = Handler::on("ship", ship);
}
