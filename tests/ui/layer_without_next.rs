// error: function is expected to take 2 arguments
// at: timing
use ezq::handler::{Call, HandlerResult, Returned};
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

async fn timing(_: Call) -> HandlerResult {
    Ok(Returned::default())
}

#[on_event(layer = timing)]
async fn ship(_: Paid) {}

fn main() {}
