//! Writes a handler's options as calls on its `Handler`.

use super::super::{
    options::{Options, Timeout},
    retry::Backoff,
};
use proc_macro2::TokenStream;
use quote::quote;
use std::time::Duration;

/// `.order(1).queue("mail")`, and so on for each option that is given.
pub(super) fn chain(options: &Options, private: &TokenStream) -> TokenStream {
    let order = options.order.map(|order| quote!(.order(#order)));
    let queue = options.queue.as_ref().map(|queue| quote!(.queue(#queue)));
    let patterns = options
        .patterns
        .iter()
        .map(|pattern| quote!(.pattern(#pattern)));

    let timeout = options.timeout.as_ref().map(timeout);
    let concurrency = options.concurrency.map(|limit| {
        let limit = size(limit);
        quote!(.concurrency(#limit))
    });
    let max_attempts = options
        .retry
        .max_attempts
        .map(|attempts| quote!(.max_attempts(#attempts)));
    let backoff = options
        .retry
        .backoff
        .as_ref()
        .map(|value| backoff(value, private));

    let batch_size = options.batch_size.map(|limit| {
        let limit = size(limit);
        quote!(.batch_size(#limit))
    });
    let batch_wait = options.batch_wait.map(|wait| {
        let wait = duration(wait);
        quote!(.batch_wait(#wait))
    });

    let layers = options.layers.iter().map(|layer| quote!(.layer(#layer)));

    quote!(#order #queue #(#patterns)* #timeout #concurrency #max_attempts #backoff #batch_size #batch_wait #(#layers)*)
}

fn timeout(timeout: &Timeout) -> TokenStream {
    match timeout {
        Timeout::Unlimited => quote!(.timeout(::core::option::Option::None)),
        Timeout::After(length) => {
            let length = duration(*length);
            quote!(.timeout(::core::option::Option::Some(#length)))
        }
    }
}

fn backoff(backoff: &Backoff, private: &TokenStream) -> TokenStream {
    let value = match backoff {
        Backoff::Constant(wait) => {
            let wait = duration(*wait);
            quote!(constant(#wait))
        }
        Backoff::Exponential {
            initial,
            max,
            multiplier,
            has_jitter,
        } => {
            let initial = duration(*initial);
            let max = duration(*max);
            let jitter = if *has_jitter {
                quote!(Full)
            } else {
                quote!(None)
            };
            quote!(Exponential {
                initial: #initial,
                max: #max,
                multiplier: #multiplier,
                jitter: #private::Jitter::#jitter,
            })
        }
        Backoff::Linear { initial, max } => {
            let initial = duration(*initial);
            let max = duration(*max);
            quote!(linear(#initial, #max))
        }
        Backoff::Custom(function) => quote!(custom(#function)),
    };
    quote!(.backoff(#private::Backoff::#value))
}

fn duration(length: Duration) -> TokenStream {
    let seconds = length.as_secs();
    let nanos = length.subsec_nanos();
    quote!(::core::time::Duration::new(#seconds, #nanos))
}

/// The library counts in `usize`, which on the host may be narrower than what was written.
fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
