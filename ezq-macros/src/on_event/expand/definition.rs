//! The definition of a handler: how it is made, and the closure that runs it.

use super::places::{ReturnPlace, located};
use super::{marker, settings};
use crate::on_event::{
    handler::Handler,
    options::Options,
    schedule::Schedule,
    signature::{First, Signature},
};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;

/// The handler's type with its definition, and its entry in the list of handlers.
///
/// All mentions of the user's types stand in one function, because rustc reports an unfit type once
/// for each function that mentions it.
pub(in crate::on_event) fn handler(handler: &Handler<'_>, private: &TokenStream) -> TokenStream {
    let Handler {
        function,
        signature,
        options,
        schedule,
    } = handler;
    let ident = &function.signature.ident;
    let name = durable_name(ident, options);

    let constructor = constructor(signature.first);
    let subscription = subscription(signature.first, &name, schedule.as_ref(), private);
    let converter = output_converter(ident, signature, private);
    let closure = closure(ident, signature, private);
    let extractors = &signature.extractors;
    let settings = settings::chain(options, private);

    // An anonymous constant is a scope of its own: its imports and impls add no name to the
    // user's module.
    let definition = quote! {
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #private::HandlerDefinition for #ident {
                fn definition() -> #private::Handler {
                    let __ezq_output = #converter;
                    #private::#constructor(
                        #name,
                        #subscription,
                        #closure,
                    )
                    // The start checks where returned events go, and that every extractor can be
                    // had, before any event arrives.
                    .returning((__ezq_output.types)())
                    #(.requires::<#extractors>())*
                    #settings
                }
            }

            #private::inventory::submit! {
                #private::Discovered(<#ident as #private::HandlerDefinition>::definition)
            }
        };
    };
    marker::handler(function, &definition, private)
}

/// A handler must be async whether it waits for something or not.
pub(in crate::on_event) fn allowed_on_function() -> TokenStream {
    quote!(#[allow(clippy::unused_async)])
}

/// The pinned name, or else the function's path.
fn durable_name(ident: &Ident, options: &Options) -> TokenStream {
    match &options.name {
        Some(name) => name.to_token_stream(),
        None => {
            let suffix = format!("::{}", ident.unraw());
            quote!(::core::concat!(::core::module_path!(), #suffix))
        }
    }
}

fn constructor(first: First<'_>) -> TokenStream {
    match first {
        First::Batch(_) => quote!(Handler::batch),
        First::Event(_) => quote!(Handler::new),
        First::Tick | First::None => quote!(scheduled),
    }
}

/// The constructor's argument that says which events the handler takes.
fn subscription(
    first: First<'_>,
    name: &TokenStream,
    schedule: Option<&Schedule>,
    private: &TokenStream,
) -> TokenStream {
    match first {
        First::Batch(event) => quote!(#private::batch_subscription::<#event>()),
        First::Event(event) => quote!(#private::subscription::<#event>()),
        // Each scheduled function has an event type of its own, so that no other function takes
        // its ticks.
        First::Tick | First::None => {
            let schedule = schedule.map(|schedule| schedule.expand(private));
            quote!(::core::concat!("ezq.tick.", #name), #schedule)
        }
    }
}

/// The closure that runs the handler: it reads the event, extracts the arguments and calls the
/// function.
fn closure(ident: &Ident, signature: &Signature<'_>, private: &TokenStream) -> TokenStream {
    let Signature {
        first, extractors, ..
    } = signature;
    // A type that is not an event, or not an extractor, is underlined at the function's name.
    let place = Span::call_site().located_at(ident.span());
    let here = located(private, ident.span());

    let read = read_event(*first, &here, place);
    let call = match first {
        First::Batch(_) => quote_spanned!(place=> __ezq_call.call()),
        _ => quote_spanned!(place=> &__ezq_call),
    };
    let arguments: Vec<Ident> = (0..extractors.len())
        .map(|i| format_ident!("__ezq_argument_{i}"))
        .collect();
    let outcome = outcome(ident, signature, &arguments);

    let future = quote_spanned! {place=>
        ::std::boxed::Box::pin(async move {
            #read
            #(let #arguments = #here::extract::<#extractors>(#call).await?;)*
            #outcome
        })
    };
    match first {
        First::Batch(_) => quote! {
            move |__ezq_call: #private::BatchCall| -> #private::BatchFuture { #future }
        },
        _ => quote! {
            move |__ezq_call: #private::Call| -> #private::HandlerFuture { #future }
        },
    }
}

/// The statements that bind `__ezq_event`, if the handler takes one.
fn read_event(first: First<'_>, here: &TokenStream, place: Span) -> TokenStream {
    match first {
        First::Batch(event) => quote_spanned! {place=>
            let (__ezq_event, __ezq_unread) = #here::read_batch::<#event>(&__ezq_call);
            // Nothing could be read: the function is not called with an empty batch.
            if __ezq_event.is_empty() {
                return __ezq_unread.results(());
            }
        },
        First::Event(event) => quote_spanned! {place=>
            let __ezq_event = #here::from_event::<#event>(&__ezq_call)?;
        },
        First::Tick => quote_spanned!(place=> let __ezq_event = #here::tick(&__ezq_call)?;),
        First::None => TokenStream::new(),
    }
}

/// The call of the function, and the conversion of what it returns.
fn outcome(ident: &Ident, signature: &Signature<'_>, arguments: &[Ident]) -> TokenStream {
    let place = ReturnPlace::of(ident, signature.output);
    // The call is spanned from the return type's first token to its last; see `ReturnPlace`.
    let mut callee = ident.clone();
    callee.set_span(Span::call_site().located_at(place.first));

    let event = (!matches!(signature.first, First::None)).then(|| quote!(__ezq_event,));
    let wait = quote_spanned!(Span::call_site().located_at(place.last)=> .await);
    let call = quote!(#callee(#event #(#arguments),*) #wait);
    match signature.first {
        First::Batch(_) => quote!((__ezq_output.take)(__ezq_unread, #call)),
        _ => quote!((__ezq_output.take)(#call)),
    }
}

/// The expression that picks the conversion for the function's return type. An unfit return type is
/// underlined where the user wrote it.
fn output_converter(
    ident: &Ident,
    signature: &Signature<'_>,
    private: &TokenStream,
) -> TokenStream {
    let place = ReturnPlace::of(ident, signature.output);
    let private = located(private, place.first);
    let nothing = quote_spanned!(Span::call_site().located_at(place.last)=> ());
    let start = Span::call_site().located_at(place.first);
    match signature.first {
        First::Batch(_) => quote_spanned!(start=> #private::batch_output #nothing),
        _ => quote_spanned!(start=> #private::output #nothing),
    }
}
