//! Checks `retry(max_attempts = .., backoff = .., initial = .., max = ..)`.

use crate::{
    attributes::{Entries, Entry, Key},
    errors::Errors,
    suggest,
};
use std::time::Duration;
use syn::{Error, LitStr, Path, Result};

const KEYS: &[Key] = &[
    Key::once("max_attempts", "max_attempts = 5"),
    Key::once("backoff", "backoff = \"exponential\""),
    Key::once("initial", "initial = \"1s\""),
    Key::once("max", "max = \"5m\""),
];

const CURVES: [&str; 4] = ["exponential", "constant", "linear", "doubling_minutes"];

// The documentation of `#[on_event]` states these two.
const DEFAULT_INITIAL: Duration = Duration::from_secs(1);
const DEFAULT_MAX: Duration = Duration::from_secs(300);

/// The retry options of one handler. An absent one leaves the choice to the application.
#[derive(Default)]
pub(super) struct Retry {
    pub(super) max_attempts: Option<u32>,
    pub(super) backoff: Option<Backoff>,
}

pub(super) enum Backoff {
    Exponential { initial: Duration, max: Duration },
    Constant(Duration),
    Linear { initial: Duration, max: Duration },
    DoublingMinutes,
    Custom(Path),
}

/// The value of `backoff`.
enum Curve {
    Named(&'static str),
    Custom(Path),
}

pub(super) fn validate(entry: &Entry, errors: &mut Errors) -> Retry {
    let Some(list) = errors.take(entry.list()) else {
        return Retry::default();
    };
    let mut entries = Entries::new(KEYS);
    entries.read(list, errors);

    Retry {
        max_attempts: entries.value("max_attempts", Entry::positive, errors),
        backoff: backoff(&entries, errors),
    }
}

/// The backoff, if any of its three keys is given. After a mistake in one of them it is `None`.
fn backoff(entries: &Entries, errors: &mut Errors) -> Option<Backoff> {
    // The outer `Option` says whether the key is given, the inner one whether its value is right.
    let initial = entries
        .find("initial")
        .map(|entry| errors.take(entry.duration()));
    let max = entries
        .find("max")
        .map(|entry| errors.take(entry.duration()));
    let curve = entries
        .find("backoff")
        .map(|entry| errors.take(curve(entry)));
    if initial.is_none() && max.is_none() && curve.is_none() {
        return None;
    }

    let initial = initial.unwrap_or(Some(DEFAULT_INITIAL))?;
    match curve.unwrap_or(Some(Curve::Named("exponential")))? {
        Curve::Named("constant") => {
            let message = "a constant backoff has no `max`: it always waits `initial`";
            refuse("max", message, entries, errors);
            Some(Backoff::Constant(initial))
        }
        Curve::Named("doubling_minutes") => {
            let message = "a backoff of doubling minutes has neither `initial` nor `max`";
            refuse("initial", message, entries, errors);
            refuse("max", message, entries, errors);
            Some(Backoff::DoublingMinutes)
        }
        Curve::Named(name) => {
            let max = max.unwrap_or(Some(DEFAULT_MAX.max(initial)))?;
            if max < initial {
                let message = "`max` is shorter than `initial`: no wait can be both";
                refuse("max", message, entries, errors);
            }
            Some(match name {
                "linear" => Backoff::Linear { initial, max },
                _ => Backoff::Exponential { initial, max },
            })
        }
        Curve::Custom(path) => {
            let message = "a backoff of your own has neither `initial` nor `max`: it decides alone";
            refuse("initial", message, entries, errors);
            refuse("max", message, entries, errors);
            Some(Backoff::Custom(path))
        }
    }
}

/// Makes the key a mistake, if it is given.
fn refuse(key: &str, message: &str, entries: &Entries, errors: &mut Errors) {
    if let Some(entry) = entries.find(key) {
        errors.push(Error::new(entry.span, message));
    }
}

fn curve(entry: &Entry) -> Result<Curve> {
    if let Ok(path) = entry.parse::<Path>() {
        return Ok(Curve::Custom(path));
    }
    let literal: LitStr = entry.parse()?;
    let text = literal.value();
    if let Some(curve) = CURVES.into_iter().find(|curve| *curve == text) {
        return Ok(Curve::Named(curve));
    }

    let hint = match suggest::nearest(&text, CURVES) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => {
            "write \"exponential\", \"constant\", \"linear\" or \"doubling_minutes\", or name a \
                 function of your own without quotes"
                .to_owned()
        }
    };
    let message = format!("unknown backoff \"{}\": {hint}", text.escape_debug());
    Err(Error::new(literal.span(), message))
}
