// error: `Mailer` is not an extractor
// note: State<
// at: ship
use ezq::handler::Handler;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

struct Mailer;

async fn ship(_: Paid, _: Mailer) {}

fn main() {
    let _ = Handler::on("ship", ship);
}
