//! A key may be absent, at its end or on the way there, whatever its type is called.
#![deny(warnings)]
#![allow(dead_code)]

use ezq::prelude::*;
use serde::{Deserialize, Serialize};

type Maybe<T> = Option<T>;

#[derive(Serialize, Deserialize)]
struct Customer {
    id: Option<i64>,
    name: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "Order Items.created", key = "customer.id")]
struct OptionAtTheEnd {
    customer: Customer,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "customer.name")]
struct OptionOnTheWay {
    customer: Option<Customer>,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "customer.id")]
struct OptionsOnTheWay {
    customer: Maybe<Customer>,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "0")]
struct OfATuple(Maybe<String>);

fn main() {
    let customer = |id| Customer { id, name: "ada".into() };
    assert_eq!(OptionAtTheEnd { customer: customer(Some(7)) }.key().as_deref(), Some("7"));
    assert_eq!(OptionOnTheWay { customer: None }.key(), None);
}
