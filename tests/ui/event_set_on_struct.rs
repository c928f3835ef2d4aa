// error: an event set is an enum with one event in each variant: write `enum Account
// at: Account
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[derive(EventSet)]
struct Account(Created);

#[on_event]
async fn count(_event: Account) {}

fn main() {}
