//! `#[on_event]` and `#[on_schedule]`: registers an async function as a handler.
//!
//! The function stays as written. Beside it stands a type of the same name, which is the handler
//! for explicit registration, and an entry in the list that the consumer finds at start.
//!
//! The stages: `attributes` and `parse` read the tokens; `options`, `retry`, `schedule` and
//! `signature` check them; `expand` writes the code and finds no mistakes.

mod expand;
mod handler;
mod options;
mod parse;
mod retry;
mod schedule;
mod signature;

use crate::{
    attributes::{self, Entries},
    errors::Errors,
};
use handler::Handler;
use options::Options;
use parse::Function;
use proc_macro2::TokenStream;
use quote::quote;
use signature::{First, Signature};
use syn::Error;

pub(crate) use expand::handler_type;

/// Expands `#[on_event]`.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let mut entries = Entries::new(options::KEYS);
    entries.read(arguments, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    let options = options::validate(&entries, &mut errors);

    let teach = "`#[on_event]` goes on a function: write `async fn on_my_event(event: MyEvent)`";
    let Some(function) = errors.take(parse::function(&item, teach)) else {
        return with_errors(errors, &item);
    };
    let signature = signature::validate(&function, &mut errors);
    refuse_batch_options_of_single_events(&options, signature.as_ref(), &mut errors);

    let handler = signature.map(|signature| Handler {
        function: &function,
        signature,
        options,
        schedule: None,
    });
    finish(&item, &function, handler, &private, errors)
}

/// Expands `#[on_schedule]`: a handler of ticks, and the schedule that publishes them.
pub(crate) fn expand_scheduled(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let (expression, rest) = schedule::split(arguments);
    let mut entries = Entries::new(options::SCHEDULE_KEYS);
    entries.read(rest, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    let options = options::validate(&entries, &mut errors);
    let schedule = schedule::validate(expression, &entries, &mut errors);

    let teach = "`#[on_schedule]` goes on a function: write `async fn my_task()`";
    let Some(function) = errors.take(parse::function(&item, teach)) else {
        return with_errors(errors, &item);
    };
    let signature = signature::validate_scheduled(&function, &mut errors);

    let handler = signature.map(|signature| Handler {
        function: &function,
        signature,
        options,
        schedule,
    });
    finish(&item, &function, handler, &private, errors)
}

fn refuse_batch_options_of_single_events(
    options: &Options,
    signature: Option<&Signature<'_>>,
    errors: &mut Errors,
) {
    // After another mistake it is not certain that the parameter was meant as a single event.
    if !errors.is_empty() {
        return;
    }
    if let (Some(span), Some(First::Event(_))) = (options.batch, signature.map(|s| s.first)) {
        let message = "`batch(..)` is for handlers of batches: take `Batch<MyEvent>` as the first \
                       parameter";
        errors.push(Error::new(span, message));
    }
}

/// Writes the handler. After a mistake the function still is a handler by name, so that what
/// registers it raises no second error.
fn finish(
    item: &TokenStream,
    function: &Function,
    handler: Option<Handler<'_>>,
    private: &TokenStream,
    errors: Errors,
) -> TokenStream {
    match handler {
        Some(handler) if errors.is_empty() => {
            let allowed = expand::allowed_on_function();
            let handler = expand::handler(&handler, private);
            quote!(#allowed #item #handler)
        }
        // A method has no fallback: no type can stand beside it.
        _ if function.signature.receiver().is_some() => with_errors(errors, item),
        _ => {
            let fallback = expand::fallback(function, private);
            // Nothing refers to the function while it is not registered.
            let item = quote!(#[allow(dead_code)] #item #fallback);
            with_errors(errors, &item)
        }
    }
}

fn with_errors(errors: Errors, item: &TokenStream) -> TokenStream {
    let error = errors.finish().err().map(Error::into_compile_error);
    quote!(#error #item)
}

#[cfg(test)]
mod tests;
