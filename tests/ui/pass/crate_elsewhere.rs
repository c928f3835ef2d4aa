//! A crate that re-exports ezq under a name of its own.
#![deny(warnings)]

mod platform {
    pub use ::ezq as events;
}

use platform::events::prelude::*;

mod ezq {}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(crate = crate::platform::events)]
struct Created;

#[derive(EventSet)]
#[event(crate = platform::events)]
enum Account {
    Created(Created),
}

#[on_event(crate = platform::events)]
async fn count(event: Account) {
    let Account::Created(Created) = event;
}

fn main() {}
