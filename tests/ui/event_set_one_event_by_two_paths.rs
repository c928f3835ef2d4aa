// error: conflicting implementations of trait `ezq::__private::OneVariantEach<Account>` for type `Opened`
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

mod events {
    pub(crate) use super::Opened as Again;
}

#[derive(Event, Serialize, Deserialize)]
struct Opened {}

#[derive(EventSet)]
enum Account {
    Opened(Opened),
    Again(events::Again),
}

fn main() {}
