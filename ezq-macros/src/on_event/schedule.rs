//! Checks what only `#[on_schedule(...)]` takes: its times, its time zone and its policy for missed
//! ticks. Whether the time zone exists is checked when the application is built, since the macros
//! carry no table of time zones.

use crate::{
    attributes::{Entries, Entry},
    errors::Errors,
};
use croner::parser::{CronParser, Seconds, Year};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use std::time::Duration;
use syn::{Error, LitStr, Result};

const FORM: &str = "write minute, hour, day of the month, month and day of the week, such as \
                    \"0 9 * * MON\"";

pub(super) struct Schedule {
    times: Times,
    tz: Option<LitStr>,
    missed: Option<Missed>,
}

enum Times {
    Cron(LitStr),
    Every(LitStr),
}

enum Missed {
    Skip,
    FireOnce,
}

/// Splits the cron expression before the keys, if there is one, from what follows it.
pub(super) fn split(arguments: TokenStream) -> (Option<Result<LitStr>>, TokenStream) {
    let mut tokens = arguments.into_iter().peekable();
    let Some(TokenTree::Literal(_)) = tokens.peek() else {
        return (None, tokens.collect());
    };

    let literal = tokens.next().map(TokenStream::from).unwrap_or_default();
    // Anything but a comma stays in front of the keys, where it is reported as not being one.
    tokens.next_if(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','));
    (Some(syn::parse2(literal)), tokens.collect())
}

/// `None` after a mistake in the times.
pub(super) fn validate(
    expression: Option<Result<LitStr>>,
    entries: &Entries,
    errors: &mut Errors,
) -> Option<Schedule> {
    let times = times(expression, entries, errors);
    let tz = entries.value("tz", Entry::text, errors);
    let missed = entries.value("missed", missed, errors);

    times.map(|times| Schedule { times, tz, missed })
}

fn times(
    expression: Option<Result<LitStr>>,
    entries: &Entries,
    errors: &mut Errors,
) -> Option<Times> {
    match (expression, entries.find("every")) {
        (Some(expression), None) => errors.take(expression.and_then(cron)),
        (None, Some(every)) => {
            if let Some(tz) = entries.find("tz") {
                let message =
                    "an interval has no time zone: leave out `tz`, or give a cron expression";
                errors.push(Error::new(tz.span, message));
            }
            errors.take(interval(every))
        }
        (Some(_), Some(every)) => {
            let message = "a schedule has a cron expression or an interval: leave out one of them";
            errors.push(Error::new(every.span, message));
            None
        }
        (None, None) => {
            let message = "say when: write `#[on_schedule(\"0 9 * * MON\")]` or \
                           `#[on_schedule(every = \"30s\")]`";
            errors.push(Error::new(Span::call_site(), message));
            None
        }
    }
}

fn cron(literal: LitStr) -> Result<Times> {
    let text = literal.value();
    // ezq-core reads expressions by the same two rules.
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    // The parser accepts `0 9,,1 * * *`.
    let has_gap = text
        .split_whitespace()
        .any(|field| field.split(',').any(str::is_empty));
    if !has_gap && parser.parse(&text).is_ok() {
        return Ok(Times::Cron(literal));
    }

    let message = format!(
        "\"{}\" is not a cron expression: {FORM}",
        text.escape_debug()
    );
    Err(Error::new(literal.span(), message))
}

fn interval(entry: &Entry) -> Result<Times> {
    let literal: LitStr = entry.parse()?;
    // The same limit as at run time: `Schedule` refuses it when the application is built.
    if entry.duration()? < Duration::from_secs(1) {
        return Err(Error::new(literal.span(), "an interval is at least \"1s\""));
    }
    Ok(Times::Every(literal))
}

fn missed(entry: &Entry) -> Result<Missed> {
    let literal: LitStr = entry.parse()?;
    match literal.value().as_str() {
        "skip" => Ok(Missed::Skip),
        "fire_once" => Ok(Missed::FireOnce),
        other => {
            let message = format!(
                "unknown policy \"{}\": write \"skip\" or \"fire_once\"",
                other.escape_debug()
            );
            Err(Error::new(literal.span(), message))
        }
    }
}

impl Schedule {
    /// `Schedule::cron(..).tz(..).missed(..)`.
    pub(super) fn expand(&self, private: &TokenStream) -> TokenStream {
        let times = match &self.times {
            Times::Cron(literal) => quote!(cron(#literal)),
            Times::Every(literal) => quote!(every(#literal)),
        };
        let tz = self.tz.as_ref().map(|tz| quote!(.tz(#tz)));
        let missed = self.missed.as_ref().map(|missed| match missed {
            Missed::Skip => quote!(.missed(#private::Missed::Skip)),
            Missed::FireOnce => quote!(.missed(#private::Missed::FireOnce)),
        });
        quote!(#private::Schedule::#times #tz #missed)
    }
}
