//! `#[on_event]`: registers an async function as a handler.
//!
//! The function stays as written. Beside it stands a type of the same name, which is the handler
//! for explicit registration, and an entry in the list that the consumer finds at start.

mod expand;
mod options;
mod signature;

use crate::{
    attributes::{self, Entries},
    errors::Errors,
};
use proc_macro2::TokenStream;
use quote::quote;
use signature::Function;
use syn::parse::Parser as _;

/// Expands the attribute. After a mistake the function still is a handler by name, so that the
/// mistake is the only error.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let mut entries = Entries::new(options::KEYS);
    entries.read(arguments, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    let options = options::validate(&entries, &mut errors);

    let function = match Function::parse.parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            errors.push(error);
            return reported(errors, &item);
        }
    };
    let signature = signature::validate(&function, &mut errors);
    if errors.is_empty()
        && let (Some(span), Some(false)) = (options.batch, signature.as_ref().map(|s| s.is_batch))
    {
        let message = "`batch(..)` is for handlers of batches: take `Batch<MyEvent>` as the first \
                       parameter";
        errors.push(syn::Error::new(span, message));
    }
    match signature {
        Some(signature) if errors.is_empty() => {
            let handler = expand::handler(&function, &signature, &options, &private);
            let allowed = expand::allowed_on_function();
            quote!(#allowed #item #handler)
        }
        // Beside a method no type can stand.
        _ if function.signature.receiver().is_some() => reported(errors, &item),
        _ => {
            let fallback = expand::fallback(&function, &private);
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
