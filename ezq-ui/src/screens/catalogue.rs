//! The catalogue: handlers and event types, as far as this program and the running consumers tell of
//! them.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use ezq::Ezq;
use ezq::handler::Subscription;

use crate::board::Board;
use crate::frame::{Frame, render};
use crate::sample::Sample;
use crate::text;

#[derive(Template)]
#[template(path = "catalogue.html")]
struct Page {
    frame: Frame,
    handlers: Vec<HandlerRow>,
    types: Vec<TypeRow>,
}

/// A handler, from the code of this program or from a consumer.
#[derive(Default)]
struct HandlerRow {
    name: String,
    takes: String,
    queues: BTreeSet<String>,
    applications: BTreeSet<String>,
}

struct TypeRow {
    name: String,
    version: u32,
    aliases: String,
    codec: String,
    queue: String,
    handlers: BTreeSet<String>,
    try_href: String,
}

impl HandlerRow {
    fn places(&self) -> String {
        joined(&self.queues)
    }

    fn owners(&self) -> String {
        joined(&self.applications)
    }
}

impl TypeRow {
    fn handled_by(&self) -> String {
        joined(&self.handlers)
    }
}

fn joined(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.join(", ")
}

pub(crate) async fn show(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame.page("/catalogue", "Catalogue").sampled(&reading);

    render(&Page {
        handlers: handlers(&board.ezq, reading.value.as_deref()),
        types: types(&board.ezq, &frame),
        frame,
    })
}

fn handlers(ezq: &Ezq, sample: Option<&Sample>) -> Vec<HandlerRow> {
    let mut rows = BTreeMap::<String, HandlerRow>::new();
    // What the code of this program knows.
    for handler in ezq.handlers() {
        let row = rows.entry(handler.name().to_string()).or_default();
        row.takes = takes(handler.subscription());
        row.applications.insert(ezq.config().app.clone());
    }

    let consumers = sample.map_or(&[][..], |sample| &sample.consumers);
    // What other programs have told, which is names only.
    for one in consumers {
        for handler in &one.consumer.handlers {
            let row = rows.entry(handler.to_string()).or_default();
            row.queues.insert(one.consumer.queue.to_string());
            row.applications.insert(one.consumer.application.clone());
        }
    }
    for (name, row) in &mut rows {
        row.name.clone_from(name);
    }

    rows.into_values().collect()
}

fn takes(subscription: &Subscription) -> String {
    match subscription {
        Subscription::Types(types) => {
            let names: Vec<&str> = types.iter().map(|one| one.type_name).collect();
            names.join(", ")
        }
        Subscription::Patterns(patterns) => {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            patterns.join(", ")
        }
        // `All`, and what a later version adds.
        _ => "every event".to_owned(),
    }
}

/// The event types that the handlers of this program take.
fn types(ezq: &Ezq, frame: &Frame) -> Vec<TypeRow> {
    let mut rows = BTreeMap::<(String, u32), TypeRow>::new();
    for handler in ezq.handlers() {
        let Subscription::Types(types) = handler.subscription() else {
            continue;
        };
        for one in types {
            let key = (one.type_name.to_owned(), one.version);
            let row = rows.entry(key).or_insert_with(|| TypeRow {
                name: one.type_name.to_owned(),
                version: one.version,
                aliases: one.aliases.join(", "),
                codec: one.codec.unwrap_or("–").to_owned(),
                queue: one.queue.unwrap_or("–").to_owned(),
                handlers: BTreeSet::new(),
                try_href: text::address(&frame.to("/subscriptions"), &[("type", one.type_name)]),
            });
            row.handlers.insert(handler.name().to_string());
        }
    }

    rows.into_values().collect()
}
