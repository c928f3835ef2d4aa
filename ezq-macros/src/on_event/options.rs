//! What stands between the parentheses of `#[on_event(...)]`, checked.

use crate::{
    attributes::{Entries, Entry, Key},
    duration,
    errors::Errors,
    event::queue_name,
    suggest,
};
use proc_macro2::Span;
use std::time::Duration;
use syn::{Error, LitStr, Path, Result};

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
    Key::once("crate", "crate = path::to::ezq"),
];

const RETRY_KEYS: &[Key] = &[
    Key::once("max_attempts", "max_attempts = 5"),
    Key::once("backoff", "backoff = \"exponential\""),
    Key::once("initial", "initial = \"1s\""),
    Key::once("max", "max = \"5m\""),
];

const BATCH_KEYS: &[Key] = &[
    Key::once("size", "size = 100"),
    Key::once("wait", "wait = \"20ms\""),
];

const CURVES: [&str; 4] = ["exponential", "constant", "linear", "doubling_minutes"];

const DEFAULT_INITIAL: Duration = Duration::from_secs(1);
const DEFAULT_MAX: Duration = Duration::from_secs(300);

pub(super) enum Timeout {
    Unlimited,
    After(Duration),
}

pub(super) enum Backoff {
    Exponential { initial: Duration, max: Duration },
    Constant(Duration),
    Linear { initial: Duration, max: Duration },
    DoublingMinutes,
    Custom(Path),
}

/// What `backoff = ...` names.
enum Curve {
    Named(&'static str),
    Custom(Path),
}

#[derive(Default)]
pub(super) struct Options {
    pub(super) name: Option<LitStr>,
    pub(super) order: Option<i32>,
    pub(super) queue: Option<LitStr>,
    pub(super) patterns: Vec<LitStr>,
    pub(super) timeout: Option<Timeout>,
    pub(super) concurrency: Option<u32>,
    pub(super) max_attempts: Option<u32>,
    pub(super) backoff: Option<Backoff>,
    /// Where `batch(..)` stands, if it does.
    pub(super) batch: Option<Span>,
    pub(super) batch_size: Option<u32>,
    pub(super) batch_wait: Option<Duration>,
}

pub(super) fn validate(entries: &Entries, errors: &mut Errors) -> Options {
    let mut options = Options {
        name: entries
            .find("name")
            .and_then(|entry| errors.take(entry.text())),
        order: entries
            .find("order")
            .and_then(|entry| errors.take(entry.signed())),
        queue: entries
            .find("queue")
            .and_then(|entry| errors.take(queue_name(entry))),
        patterns: entries
            .all("pattern")
            .filter_map(|entry| errors.take(pattern(entry)))
            .collect(),
        concurrency: entries
            .find("concurrency")
            .and_then(|entry| errors.take(entry.positive())),
        timeout: entries
            .find("timeout")
            .and_then(|entry| errors.take(timeout(entry))),
        ..Options::default()
    };
    if let Some(entry) = entries.find("retry") {
        retry(entry, &mut options, errors);
    }
    if let Some(entry) = entries.find("batch") {
        batch(entry, &mut options, errors);
    }
    options
}

/// What `Pattern::new` of the library takes.
fn pattern(entry: &Entry) -> Result<LitStr> {
    let literal: LitStr = entry.parse()?;
    let text = literal.value();
    let is_mixed = |segment: &str| segment.len() > 1 && segment.contains(['*', '#']);
    let is_whole = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_whole && !text.split('.').any(is_mixed) {
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
    let mut batch = Entries::new(BATCH_KEYS);
    batch.read(list, errors);
    options.batch_size = batch
        .find("size")
        .and_then(|entry| errors.take(entry.positive()));
    options.batch_wait = batch
        .find("wait")
        .and_then(|entry| errors.take(length(entry)));
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

fn retry(entry: &Entry, options: &mut Options, errors: &mut Errors) {
    let Some(list) = errors.take(entry.list()) else {
        return;
    };
    let mut retry = Entries::new(RETRY_KEYS);
    retry.read(list, errors);
    options.max_attempts = retry
        .find("max_attempts")
        .and_then(|entry| errors.take(entry.positive()));
    let initial = retry
        .find("initial")
        .map(|entry| errors.take(length(entry)));
    let max = retry.find("max").map(|entry| errors.take(length(entry)));
    let curve = retry.find("backoff").map(|entry| errors.take(curve(entry)));
    if initial.is_none() && max.is_none() && curve.is_none() {
        return;
    }
    // Something was given and is mistaken: it is reported already.
    let (Some(initial), Some(curve)) = (
        initial.unwrap_or(Some(DEFAULT_INITIAL)),
        curve.unwrap_or(Some(Curve::Named("exponential"))),
    ) else {
        return;
    };
    let mut has_no = |key: &str, message: &str| {
        if let Some(entry) = retry.find(key) {
            errors.push(Error::new(entry.span, message));
        }
    };
    let whole = match &curve {
        Curve::Named("constant") => {
            has_no(
                "max",
                "a constant backoff has no `max`: it always waits `initial`",
            );
            Some(Backoff::Constant(initial))
        }
        Curve::Named("doubling_minutes") => {
            let message = "a backoff of doubling minutes has neither `initial` nor `max`";
            has_no("initial", message);
            has_no("max", message);
            Some(Backoff::DoublingMinutes)
        }
        Curve::Named(_) => None,
        Curve::Custom(path) => {
            let message = "a backoff of your own has neither `initial` nor `max`: it decides alone";
            has_no("initial", message);
            has_no("max", message);
            Some(Backoff::Custom(path.clone()))
        }
    };
    if whole.is_some() {
        options.backoff = whole;
        return;
    }
    let Some(max) = max.unwrap_or(Some(DEFAULT_MAX.max(initial))) else {
        return;
    };
    if let Some(entry) = retry.find("max").filter(|_| max < initial) {
        let message = "`max` is shorter than `initial`: no wait can be both";
        errors.push(Error::new(entry.span, message));
    }
    options.backoff = Some(match curve {
        Curve::Named("linear") => Backoff::Linear { initial, max },
        _ => Backoff::Exponential { initial, max },
    });
}

fn length(entry: &Entry) -> Result<Duration> {
    let literal: LitStr = entry.parse()?;
    duration::parse(&literal.value()).map_err(|message| Error::new(literal.span(), message))
}

fn curve(entry: &Entry) -> Result<Curve> {
    if let Ok(path) = entry.parse::<Path>() {
        return Ok(Curve::Custom(path));
    }
    let literal: LitStr = entry.parse()?;
    let text = literal.value();
    CURVES
        .into_iter()
        .find(|curve| *curve == text)
        .map(Curve::Named)
        .ok_or_else(|| {
            let hint = match suggest::nearest(&text, CURVES) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    "write \"exponential\", \"constant\", \"linear\" or \"doubling_minutes\", or \
                     name a function of your own without quotes"
                        .to_owned()
                }
            };
            Error::new(
                literal.span(),
                format!("unknown backoff \"{}\": {hint}", text.escape_debug()),
            )
        })
}
