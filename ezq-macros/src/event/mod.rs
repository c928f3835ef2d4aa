//! `#[derive(Event)]`: the name, version, queue and key of one event type.
//!
//! The stages: `parse` reads the attributes, `options` and `key` check them, `expand` writes the
//! impl and finds no mistakes.

mod expand;
mod key;
mod options;
mod parse;

use crate::{attributes, errors::Errors};
use options::Options;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error};

pub(crate) use parse::{read, refuse_generics};

/// Expands the derive. After a mistake the type still is an event, so that the mistake is the only
/// error and no handler of the type complains as well.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let entries = read(input, options::KEYS, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    check_shape(input, &mut errors);
    let options = options::validate(input, &entries, &mut errors);

    match errors.finish() {
        Ok(()) => expand::event(input, &private, &options),
        Err(error) => {
            let error = error.into_compile_error();
            // For a generic type rustc would ask for bounds that the user cannot need.
            let fallback = input
                .generics
                .params
                .is_empty()
                .then(|| expand::event(input, &private, &Options::defaults(input)));
            quote!(#error #fallback)
        }
    }
}

fn check_shape(input: &DeriveInput, errors: &mut Errors) {
    if let Data::Union(data) = &input.data {
        let message = "a union cannot be an event: use a struct or an enum";
        errors.push(Error::new(data.union_token.span, message));
    }
    refuse_generics(&input.generics, errors);
}

#[cfg(test)]
mod tests;
