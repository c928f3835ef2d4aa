//! Checks `retry(max_attempts = .., backoff = .., initial = .., max = .., multiplier = .., jitter = ..)`.

use crate::{
    attributes::{Entries, Entry, Key},
    errors::Errors,
    suggest,
};
use std::time::Duration;
use syn::{Error, Expr, LitStr, Result};

const KEYS: &[Key] = &[
    Key::once("max_attempts", "max_attempts = 5"),
    Key::once("backoff", "backoff = \"exponential\""),
    Key::once("initial", "initial = \"1s\""),
    Key::once("max", "max = \"5m\""),
    Key::once("multiplier", "multiplier = 2"),
    Key::once("jitter", "jitter = \"full\""),
];

const CURVES: [&str; 3] = ["exponential", "constant", "linear"];
const JITTERS: [&str; 2] = ["full", "none"];

// The documentation of `#[on_event]` states these three.
const DEFAULT_INITIAL: Duration = Duration::from_secs(1);
const DEFAULT_MAX: Duration = Duration::from_secs(300);
const DEFAULT_MULTIPLIER: u32 = 2;

/// The retry options of one handler. An absent one leaves the choice to the application.
#[derive(Default)]
pub(super) struct Retry {
    pub(super) max_attempts: Option<u32>,
    pub(super) backoff: Option<Backoff>,
}

pub(super) enum Backoff {
    Exponential {
        initial: Duration,
        max: Duration,
        multiplier: u32,
        has_jitter: bool,
    },
    Constant(Duration),
    Linear {
        initial: Duration,
        max: Duration,
    },
    /// A function of the user's, or an expression that makes one.
    Custom(Expr),
}

/// The value of `backoff`.
enum Curve {
    Named(&'static str),
    Custom(Expr),
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

/// The backoff, if any of its keys is given. After a mistake in one of them it is `None`.
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
    let multiplier = entries
        .find("multiplier")
        .map(|entry| errors.take(entry.positive()));
    let has_jitter = entries
        .find("jitter")
        .map(|entry| errors.take(has_jitter(entry)));
    if initial.is_none()
        && max.is_none()
        && curve.is_none()
        && multiplier.is_none()
        && has_jitter.is_none()
    {
        return None;
    }

    let initial = initial.unwrap_or(Some(DEFAULT_INITIAL))?;
    match curve.unwrap_or(Some(Curve::Named("exponential")))? {
        Curve::Named("constant") => {
            let message = "a constant backoff has no `max`: it always waits `initial`";
            refuse("max", message, entries, errors);
            refuse_growth(entries, errors);
            Some(Backoff::Constant(initial))
        }
        Curve::Named(name) => {
            // A long `initial` alone is no mistake: it raises the default maximum.
            let max = max.unwrap_or(Some(DEFAULT_MAX.max(initial)))?;
            if max < initial {
                let message = "`max` is shorter than `initial`: no wait can be both";
                refuse("max", message, entries, errors);
            }
            if name == "linear" {
                refuse_growth(entries, errors);
                return Some(Backoff::Linear { initial, max });
            }
            Some(Backoff::Exponential {
                initial,
                max,
                multiplier: multiplier.unwrap_or(Some(DEFAULT_MULTIPLIER))?,
                has_jitter: has_jitter.unwrap_or(Some(true))?,
            })
        }
        Curve::Custom(function) => {
            let message = "a backoff of your own has neither `initial` nor `max`: it decides alone";
            refuse("initial", message, entries, errors);
            refuse("max", message, entries, errors);
            refuse_growth(entries, errors);
            Some(Backoff::Custom(function))
        }
    }
}

/// Makes the keys that only an exponential backoff has mistakes, if they are given.
fn refuse_growth(entries: &Entries, errors: &mut Errors) {
    let message = "only an exponential backoff has a `multiplier` and `jitter`";
    refuse("multiplier", message, entries, errors);
    refuse("jitter", message, entries, errors);
}

/// Makes the key a mistake, if it is given.
fn refuse(key: &str, message: &str, entries: &Entries, errors: &mut Errors) {
    if let Some(entry) = entries.find(key) {
        errors.push(Error::new(entry.span, message));
    }
}

fn curve(entry: &Entry) -> Result<Curve> {
    // A function and a string cannot be confused, so that no name of a curve is taken from users.
    let value: Expr = entry.parse()?;
    if !matches!(value, Expr::Lit(_)) {
        return Ok(Curve::Custom(value));
    }
    let literal: LitStr = entry.parse()?;
    let text = literal.value();
    if let Some(curve) = CURVES.into_iter().find(|curve| *curve == text) {
        return Ok(Curve::Named(curve));
    }

    let hint = match suggest::nearest(&text, CURVES) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => {
            "write \"exponential\", \"constant\" or \"linear\", or name a function of your own \
                 without quotes"
                .to_owned()
        }
    };
    let message = format!("unknown backoff \"{}\": {hint}", text.escape_debug());
    Err(Error::new(literal.span(), message))
}

fn has_jitter(entry: &Entry) -> Result<bool> {
    let literal: LitStr = entry.parse()?;
    match literal.value().as_str() {
        "full" => Ok(true),
        "none" => Ok(false),
        text => {
            let hint = match suggest::nearest(text, JITTERS) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write \"full\" or \"none\"".to_owned(),
            };
            let message = format!("unknown jitter \"{}\": {hint}", text.escape_debug());
            Err(Error::new(literal.span(), message))
        }
    }
}
