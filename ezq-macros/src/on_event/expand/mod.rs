//! Writes the code beside a handler.

use super::{
    options::{Backoff, Options, Timeout},
    signature::{First, Function, Signature},
};
use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use std::time::Duration;
use syn::{Attribute, ReturnType, ext::IdentExt as _};

/// All mentions of the user's types stand in one body, because rustc reports an unfit type once
/// for each body that mentions it.
pub(super) fn handler(
    function: &Function,
    signature: &Signature<'_>,
    options: &Options,
    schedule: Option<&TokenStream>,
    private: &TokenStream,
) -> TokenStream {
    let ident = &function.signature.ident;
    let name = match &options.name {
        Some(name) => name.to_token_stream(),
        None => {
            let suffix = format!("::{}", ident.unraw());
            quote!(::core::concat!(::core::module_path!(), #suffix))
        }
    };
    let Signature {
        first,
        extractors,
        output,
    } = signature;
    let arguments: Vec<Ident> = (0..extractors.len())
        .map(|i| format_ident!("__ezq_argument_{i}"))
        .collect();
    let (converted, outcome) = outcome(ident, output, &arguments, *first, private);
    let settings = settings(options, private);
    let here = located(private, ident.span());
    let place = Span::call_site().located_at(ident.span());
    let one = quote_spanned!(place=> &__ezq_call);
    let (read, call) = match first {
        First::Batch(event) => {
            let read = quote_spanned! {place=>
                let (__ezq_event, __ezq_unread) = #here::read_batch::<#event>(&__ezq_call);
                if __ezq_event.is_empty() {
                    return __ezq_unread.results(());
                }
            };
            (read, quote_spanned!(place=> __ezq_call.call()))
        }
        First::Event(event) => {
            let read = quote_spanned! {place=>
                let __ezq_event = #here::from_event::<#event>(&__ezq_call)?;
            };
            (read, one)
        }
        First::Tick => (
            quote_spanned!(place=> let __ezq_event = #here::tick(&__ezq_call)?;),
            one,
        ),
        First::None => (TokenStream::new(), one),
    };
    let future = quote_spanned! {place=>
        ::std::boxed::Box::pin(async move {
            #read
            #(let #arguments = #here::extract::<#extractors>(#call).await?;)*
            #outcome
        })
    };
    let (taken, given) = match first {
        First::Batch(_) => (quote!(BatchCall), quote!(BatchFuture)),
        _ => (quote!(Call), quote!(HandlerFuture)),
    };
    let (new, takes) = match first {
        First::Batch(event) => (
            quote!(Handler::batch),
            quote!(#private::batch_subscription::<#event>()),
        ),
        First::Event(event) => (
            quote!(Handler::new),
            quote!(#private::subscription::<#event>()),
        ),
        // Ticks of a type of their own, so that no other function takes them.
        First::Tick | First::None => (
            quote!(scheduled),
            quote!(::core::concat!("ezq.tick.", #name), #schedule),
        ),
    };
    let definition = quote! {
        #[allow(deprecated)]
        const _: () = {
            #[automatically_derived]
            impl #private::HandlerDefinition for #ident {
                fn definition() -> #private::Handler {
                    let __ezq_output = #converted;
                    #private::#new(
                        #name,
                        #takes,
                        move |__ezq_call: #private::#taken| -> #private::#given { #future },
                    )
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
    marker(function, &definition, private)
}

/// What a mistaken handler leaves behind: its name, so that registering it is no second error.
pub(super) fn fallback(function: &Function, private: &TokenStream) -> TokenStream {
    let ident = &function.signature.ident;
    let definition = quote! {
        #[automatically_derived]
        impl #private::HandlerDefinition for #ident {
            fn definition() -> #private::Handler { ::core::unreachable!() }
        }
    };
    marker(function, &definition, private)
}

/// A handler must be async whether it waits for something or not.
pub(super) fn allowed_on_function() -> TokenStream {
    quote!(#[allow(clippy::unused_async)])
}

/// The handler as a type, with its definition. Its braces keep it out of the namespace where the
/// function lives.
///
/// No macro sees that it stands in an `impl`, where rustc takes no type. So that this is one error,
/// the definition hangs on the type; so that it says what to do, the type is written by a macro whose
/// name says it, since rustc names the macro that an error comes from.
fn marker(function: &Function, definition: &TokenStream, private: &TokenStream) -> TokenStream {
    let ident = &function.signature.ident;
    let visibility = &function.visibility;
    let conditions = conditions(&function.attributes);
    quote! {
        #private::a_handler_is_a_free_function_move_it_out_of_the_impl! {
            #(#conditions)*
            #[#private::beside(#definition)]
            #[doc(hidden)]
            #[allow(dead_code, missing_copy_implementations, missing_debug_implementations)]
            #[allow(non_camel_case_types, unnameable_types, unreachable_pub)]
            #visibility
            #ident
        }
    }
}

/// A handler's type, from what stands before `struct` and its name: of this macro's making, so that
/// it is the one that an error names, and at the function's name.
pub(crate) fn handler_type(input: TokenStream) -> TokenStream {
    let mut before: Vec<TokenTree> = input.into_iter().collect();
    let name = before.pop();
    let place = name.as_ref().map_or_else(Span::call_site, TokenTree::span);
    let keyword = Ident::new("struct", Span::call_site().located_at(place));
    let mut body = Group::new(Delimiter::Brace, TokenStream::new());
    body.set_span(keyword.span());
    quote!(#(#before)* #keyword #name #body)
}

/// What decides whether the function is there decides it for the type, and for what hangs on that.
fn conditions(attributes: &[Attribute]) -> Vec<&Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .collect()
}

/// What converts what the handler returns, and its call. The former is spanned so that an unfit
/// return type is underlined where the user wrote it: rustc takes an expression to reach from its
/// first token to its last.
fn outcome(
    ident: &Ident,
    output: &ReturnType,
    arguments: &[Ident],
    takes: First<'_>,
    private: &TokenStream,
) -> (TokenStream, TokenStream) {
    let (first, last) = match output {
        ReturnType::Default => (ident.span(), ident.span()),
        ReturnType::Type(_, ty) => {
            let mut spans = ty.to_token_stream().into_iter().map(|token| token.span());
            let first = spans.next().unwrap_or(ident.span());
            (first, spans.last().unwrap_or(first))
        }
    };
    let mut callee = ident.clone();
    callee.set_span(Span::call_site().located_at(first));
    let place = Span::call_site().located_at(first);
    let end = Span::call_site().located_at(last);
    let private = located(private, first);

    let event = (!matches!(takes, First::None)).then(|| quote!(__ezq_event,));
    let wait = quote_spanned!(end=> .await);
    let call = quote!(#callee(#event #(#arguments),*) #wait);
    let nothing = quote_spanned!(end=> ());
    if let First::Batch(_) = takes {
        let converted = quote_spanned!(place=> #private::batch_output #nothing);
        return (converted, quote!((__ezq_output.take)(__ezq_unread, #call)));
    }
    let converted = quote_spanned!(place=> #private::output #nothing);
    (converted, quote!((__ezq_output.take)(#call)))
}

/// The same path, at another place in the source.
fn located(path: &TokenStream, place: Span) -> TokenStream {
    path.clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(token.span().located_at(place));
            token
        })
        .collect()
}

fn settings(options: &Options, private: &TokenStream) -> TokenStream {
    let order = options.order.map(|order| quote!(.order(#order)));
    let timeout = options.timeout.as_ref().map(|timeout| match timeout {
        Timeout::Unlimited => quote!(.timeout(::core::option::Option::None)),
        Timeout::After(length) => {
            let length = duration(*length);
            quote!(.timeout(::core::option::Option::Some(#length)))
        }
    });
    let concurrency = options.concurrency.map(|limit| {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        quote!(.concurrency(#limit))
    });
    let max_attempts = options
        .max_attempts
        .map(|attempts| quote!(.max_attempts(#attempts)));
    let backoff = options.backoff.as_ref().map(|backoff| {
        let value = match backoff {
            Backoff::Constant(wait) => {
                let wait = duration(*wait);
                quote!(constant(#wait))
            }
            Backoff::Exponential { initial, max } => {
                let (initial, max) = (duration(*initial), duration(*max));
                quote!(exponential(#initial, #max))
            }
            Backoff::Linear { initial, max } => {
                let (initial, max) = (duration(*initial), duration(*max));
                quote!(linear(#initial, #max))
            }
            Backoff::DoublingMinutes => quote!(doubling_minutes()),
            Backoff::Custom(path) => quote!(custom(#path)),
        };
        quote!(.backoff(#private::Backoff::#value))
    });
    let batch_size = options.batch_size.map(|size| {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        quote!(.batch_size(#size))
    });
    let batch_wait = options.batch_wait.map(|wait| {
        let wait = duration(wait);
        quote!(.batch_wait(#wait))
    });
    let queue = options.queue.as_ref().map(|queue| quote!(.queue(#queue)));
    let patterns = options
        .patterns
        .iter()
        .map(|pattern| quote!(.pattern(#pattern)));
    quote!(#order #queue #(#patterns)* #timeout #concurrency #max_attempts #backoff #batch_size #batch_wait)
}

fn duration(length: Duration) -> TokenStream {
    let (seconds, nanos) = (length.as_secs(), length.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}
