//! Checks what stands between the parentheses of `#[on_event(...)]` and `#[on_schedule(...)]`.
//! What only one of them takes besides is in `schedule`.

use super::retry::{self, Retry};
use crate::{
    attributes::{Entries, Entry, Key},
    duration,
    errors::Errors,
    queue_name,
};
use proc_macro2::Span;
use std::time::Duration;
use syn::{Error, Expr, LitStr, Result};

pub(super) const KEYS: &[Key] = &[
    Key::once("name", "name = \"accounts.open\""),
    Key::once("order", "order = 1"),
    Key::once("queue", "queue = \"mail\""),
    Key::repeatable("pattern", "pattern = \"order.*\""),
    Key::once("timeout", "timeout = \"30s\""),
    Key::once(
        "retry",
        "retry(max_attempts = 5, backoff = \"exponential\")",
    ),
    Key::once("concurrency", "concurrency = 4"),
    Key::once("batch", "batch(size = 100, wait = \"20ms\")"),
    Key::repeatable("layer", "layer = timing"),
    Key::once("crate", "crate = path::to::ezq"),
];

pub(super) const SCHEDULE_KEYS: &[Key] = &[
    Key::once("every", "every = \"30s\""),
    Key::once("tz", "tz = \"Europe/Paris\""),
    Key::once("missed", "missed = \"skip\""),
    Key::once("name", "name = \"reports.weekly\""),
    Key::once("queue", "queue = \"reports\""),
    Key::once("timeout", "timeout = \"30s\""),
    Key::once(
        "retry",
        "retry(max_attempts = 5, backoff = \"exponential\")",
    ),
    Key::once("concurrency", "concurrency = 4"),
    Key::repeatable("layer", "layer = timing"),
    Key::once("crate", "crate = path::to::ezq"),
];

const BATCH_KEYS: &[Key] = &[
    Key::once("size", "size = 100"),
    Key::once("wait", "wait = \"20ms\""),
];

pub(super) enum Timeout {
    Unlimited,
    After(Duration),
}

/// A handler's options. An absent one leaves the choice to the application.
#[derive(Default)]
pub(super) struct Options {
    pub(super) name: Option<LitStr>,
    pub(super) order: Option<i32>,
    pub(super) queue: Option<LitStr>,
    pub(super) patterns: Vec<LitStr>,
    pub(super) timeout: Option<Timeout>,
    pub(super) concurrency: Option<u32>,
    pub(super) retry: Retry,
    /// The place of `batch(..)`, if it is given.
    pub(super) batch: Option<Span>,
    pub(super) batch_size: Option<u32>,
    pub(super) batch_wait: Option<Duration>,
    /// From the outside in.
    pub(super) layers: Vec<Expr>,
}

pub(super) fn validate(entries: &Entries, errors: &mut Errors) -> Options {
    let mut options = Options {
        name: entries.value("name", Entry::text, errors),
        order: entries.value("order", Entry::signed, errors),
        queue: entries.value("queue", queue_name::parse, errors),
        patterns: entries
            .all("pattern")
            .filter_map(|entry| errors.take(pattern(entry)))
            .collect(),
        concurrency: entries.value("concurrency", Entry::positive, errors),
        timeout: entries.value("timeout", timeout, errors),
        layers: entries
            .all("layer")
            .filter_map(|entry| errors.take(entry.parse()))
            .collect(),
        ..Options::default()
    };

    if let Some(entry) = entries.find("retry") {
        options.retry = retry::validate(entry, errors);
    }
    if let Some(entry) = entries.find("batch") {
        batch(entry, &mut options, errors);
    }
    options
}

/// Reads a pattern of event types, by the rules of the library's `Pattern::new`.
fn pattern(entry: &Entry) -> Result<LitStr> {
    let literal: LitStr = entry.parse()?;
    let text = literal.value();
    let has_whole_segments = text
        .split('.')
        .all(|segment| segment.len() <= 1 || !segment.contains(['*', '#']));
    let is_text = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_text && has_whole_segments {
        return Ok(literal);
    }

    let message = "not a pattern of event types: write segments between dots, where `*` is any one of \
                   them and `#` any number, as in \"order.*\"";
    Err(Error::new(literal.span(), message))
}

fn batch(entry: &Entry, options: &mut Options, errors: &mut Errors) {
    options.batch = Some(entry.span);
    let Some(list) = errors.take(entry.list()) else {
        return;
    };

    let mut entries = Entries::new(BATCH_KEYS);
    entries.read(list, errors);
    options.batch_size = entries.value("size", Entry::positive, errors);
    options.batch_wait = entries.value("wait", Entry::duration, errors);
}

fn timeout(entry: &Entry) -> Result<Timeout> {
    let literal: LitStr = entry.parse()?;
    match literal.value().as_str() {
        "none" => Ok(Timeout::Unlimited),
        text => duration::parse(text)
            .map(Timeout::After)
            .map_err(|message| {
                let message = format!("{message}, or \"none\" for no limit");
                Error::new(literal.span(), message)
            }),
    }
}
