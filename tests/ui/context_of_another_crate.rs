// error: expected a type, found a trait
// others
use ezq::prelude::*;
use other::Context;
use serde::{Deserialize, Serialize};

/// As `anyhow` has it.
mod other {
    pub trait Context {}
}

#[derive(Event, Serialize, Deserialize)]
struct Paid {}

#[on_event]
async fn ship(_: Paid, _: Context) {}

fn main() {}
