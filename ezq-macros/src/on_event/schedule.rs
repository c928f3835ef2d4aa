//! What `#[on_schedule(...)]` says about times, checked as far as that needs no time zones.

use crate::{
    attributes::{Entries, Entry},
    duration,
    errors::Errors,
};
use croner::parser::{CronParser, Seconds, Year};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use std::time::Duration;
use syn::{Error, LitStr, Result};

const FORM: &str = "write minute, hour, day of the month, month and day of the week, such as \
                    \"0 9 * * MON\"";

/// The cron expression before the keys, if there is one, and what follows it.
pub(crate) fn split(arguments: TokenStream) -> (Option<Result<LitStr>>, TokenStream) {
    let mut tokens = arguments.into_iter().peekable();
    let Some(TokenTree::Literal(_)) = tokens.peek() else {
        return (None, tokens.collect());
    };
    let literal = tokens.next().map(TokenStream::from).unwrap_or_default();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
    let rest: TokenStream = match tokens.peek() {
        Some(token) if is_comma(token) => tokens.skip(1).collect(),
        // What else follows is told to be no key.
        _ => tokens.collect(),
    };
    (Some(syn::parse2(literal)), rest)
}

/// The expression of the schedule: `Schedule::cron(..).tz(..)`.
pub(crate) fn validate(
    expression: Option<Result<LitStr>>,
    entries: &Entries,
    private: &TokenStream,
    errors: &mut Errors,
) -> TokenStream {
    let rhythm = match (expression, entries.find("every")) {
        (Some(expression), None) => errors.take(expression.and_then(|literal| {
            cron(&literal)?;
            Ok(quote!(cron(#literal)))
        })),
        (None, Some(entry)) => {
            if let Some(tz) = entries.find("tz") {
                let message =
                    "an interval has no time zone: leave out `tz`, or give a cron expression";
                errors.push(Error::new(tz.span, message));
            }
            errors
                .take(interval(entry))
                .map(|literal| quote!(every(#literal)))
        }
        (Some(_), Some(entry)) => {
            let message = "a schedule has a cron expression or an interval: leave out one of them";
            errors.push(Error::new(entry.span, message));
            None
        }
        (None, None) => {
            let message = "say when: write `#[on_schedule(\"0 9 * * MON\")]` or \
                           `#[on_schedule(every = \"30s\")]`";
            errors.push(Error::new(Span::call_site(), message));
            None
        }
    };
    let tz = entries
        .find("tz")
        .and_then(|entry| errors.take(entry.text()));
    let tz = tz.map(|tz| quote!(.tz(#tz)));
    let missed = entries
        .find("missed")
        .and_then(|entry| errors.take(missed(entry)));
    let missed = missed.map(|missed| quote!(.missed(#private::Missed::#missed)));
    let rhythm = rhythm.unwrap_or_else(|| quote!(every("1s")));
    quote!(#private::Schedule::#rhythm #tz #missed)
}

fn cron(literal: &LitStr) -> Result<()> {
    let text = literal.value();
    // ezq-core reads expressions in the same way.
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    let has_gap = text
        .split_whitespace()
        .any(|field| field.split(',').any(str::is_empty));
    if !has_gap && parser.parse(&text).is_ok() {
        return Ok(());
    }
    let message = format!(
        "\"{}\" is not a cron expression: {FORM}",
        text.escape_debug()
    );
    Err(Error::new(literal.span(), message))
}

fn interval(entry: &Entry) -> Result<LitStr> {
    let literal: LitStr = entry.parse()?;
    let length = duration::parse(&literal.value());
    let length = length.map_err(|message| Error::new(literal.span(), message))?;
    if length < Duration::from_secs(1) {
        return Err(Error::new(literal.span(), "an interval is at least \"1s\""));
    }
    Ok(literal)
}

fn missed(entry: &Entry) -> Result<TokenStream> {
    let literal: LitStr = entry.parse()?;
    match literal.value().as_str() {
        "skip" => Ok(quote!(Skip)),
        "fire_once" => Ok(quote!(FireOnce)),
        other => {
            let message = format!(
                "unknown policy \"{}\": write \"skip\" or \"fire_once\"",
                other.escape_debug()
            );
            Err(Error::new(literal.span(), message))
        }
    }
}
