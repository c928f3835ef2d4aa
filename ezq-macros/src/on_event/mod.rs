//! `#[on_event]` and `#[on_schedule]`: registers an async function as a handler.
//!
//! The function stays as written. Beside it stands a type of the same name, which is the handler
//! for explicit registration, and an entry in the list that the consumer finds at start.

mod expand;
mod options;
mod schedule;
mod signature;

use crate::{
    attributes::{self, Entries},
    errors::Errors,
};
use options::Options;
use proc_macro2::TokenStream;
use quote::quote;
use signature::{First, Function, Signature};
use syn::parse::{ParseStream, Parser as _};

pub(crate) use expand::handler_type;

/// Expands `#[on_event]`. After a mistake the function still is a handler by name, so that the
/// mistake is the only error.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let mut entries = Entries::new(options::KEYS);
    entries.read(arguments, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    let options = options::validate(&entries, &mut errors);

    let teach = "`#[on_event]` goes on a function: write `async fn on_my_event(event: MyEvent)`";
    let Some(function) = parse(&item, teach, &mut errors) else {
        return reported(errors, &item);
    };
    let signature = signature::validate(&function, &mut errors);
    if errors.is_empty()
        && let (Some(span), Some(First::Event(_))) =
            (options.batch, signature.as_ref().map(|s| s.first))
    {
        let message = "`batch(..)` is for handlers of batches: take `Batch<MyEvent>` as the first \
                       parameter";
        errors.push(syn::Error::new(span, message));
    }
    finish(
        &item,
        &function,
        signature.as_ref(),
        &options,
        None,
        &private,
        errors,
    )
}

/// Expands `#[on_schedule]`: a handler of ticks, and the schedule that publishes them.
pub(crate) fn expand_scheduled(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let (expression, rest) = schedule::split(arguments);
    let mut entries = Entries::new(options::SCHEDULE_KEYS);
    entries.read(rest, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    let options = options::validate(&entries, &mut errors);
    let schedule = schedule::validate(expression, &entries, &private, &mut errors);

    let teach = "`#[on_schedule]` goes on a function: write `async fn my_task()`";
    let Some(function) = parse(&item, teach, &mut errors) else {
        return reported(errors, &item);
    };
    let signature = signature::validate_scheduled(&function, &mut errors);
    finish(
        &item,
        &function,
        signature.as_ref(),
        &options,
        Some(&schedule),
        &private,
        errors,
    )
}

fn parse(item: &TokenStream, teach: &str, errors: &mut Errors) -> Option<Function> {
    let parser = |input: ParseStream<'_>| Function::parse(input, teach);
    errors.take(parser.parse2(item.clone()))
}

fn finish(
    item: &TokenStream,
    function: &Function,
    signature: Option<&Signature<'_>>,
    options: &Options,
    schedule: Option<&TokenStream>,
    private: &TokenStream,
    errors: Errors,
) -> TokenStream {
    match signature {
        Some(signature) if errors.is_empty() => {
            let handler = expand::handler(function, signature, options, schedule, private);
            let allowed = expand::allowed_on_function();
            quote!(#allowed #item #handler)
        }
        // Beside a method no type can stand.
        _ if function.signature.receiver().is_some() => reported(errors, item),
        _ => {
            let fallback = expand::fallback(function, private);
            let item = quote!(#[allow(dead_code)] #item #fallback);
            reported(errors, &item)
        }
    }
}

fn reported(errors: Errors, item: &TokenStream) -> TokenStream {
    let error = errors.finish().err().map(syn::Error::into_compile_error);
    quote!(#error #item)
}

#[cfg(test)]
mod tests;
