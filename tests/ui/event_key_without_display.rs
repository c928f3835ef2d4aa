// error: `std::fmt::Display` is not implemented for `Customer`
// at: customer
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Customer {
    id: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = customer)]
struct Created {
    customer: Customer,
}

fn main() {}
