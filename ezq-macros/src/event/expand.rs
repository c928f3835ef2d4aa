//! Writes the `impl Event` of a type.

use super::{key::EventKey, options::Options};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{DeriveInput, LitStr, Path, spanned::Spanned as _};

pub(super) fn event(input: &DeriveInput, private: &TokenStream, options: &Options) -> TokenStream {
    let Options {
        name,
        version,
        aliases,
        queue,
        key,
        codec,
        from,
    } = options;
    let ident = &input.ident;
    let where_clause = &input.generics.where_clause;

    let queue = optional(queue.as_ref());
    let codec = optional(codec.as_ref());
    let key = key.as_ref().map(|key| key_method(key, private));
    let upcast = from.as_ref().map(|older| upcast_method(older, private));
    let version_check = from
        .as_ref()
        .map(|older| version_check(older, *version, private));

    // Where the trait's own bounds fail, rustc points at this mention of the type.
    let implementor = quote_spanned!(Span::call_site().located_at(ident.span())=> #ident);
    quote! {
        #[automatically_derived]
        // The user may have deprecated the type. Its own impl is no use to warn of.
        #[allow(deprecated)]
        impl #private::Event for #implementor #where_clause {
            const TYPE: &'static str = #name;
            const VERSION: u32 = #version;
            const ALIASES: &'static [&'static str] = &[#(#aliases),*];
            const QUEUE: ::core::option::Option<&'static str> = #queue;
            const CODEC: ::core::option::Option<&'static str> = #codec;
            #key
            #upcast
        }

        #version_check
    }
}

fn optional(value: Option<&LitStr>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

fn key_method(key: &EventKey, private: &TokenStream) -> TokenStream {
    let value = key.expand(private);
    quote! {
        fn key(&self) -> ::core::option::Option<::std::string::String> { #value }
    }
}

fn upcast_method(older: &Path, private: &TokenStream) -> TokenStream {
    quote! {
        // The chain ends at the event without `from`: there it is the event's own version.
        const OLDEST: u32 = <#older as #private::Event>::OLDEST;

        fn upcast(envelope: &#private::Envelope, _: u32) -> #private::Result<Self> {
            let older: #older = #private::Envelope::decode(envelope)?;
            ::core::result::Result::Ok(::core::convert::From::from(older))
        }
    }
}

/// The assertion that no version lies between an event and the one it comes from.
///
/// It is a constant of its own: rustc evaluates constants in functions only when these are called.
fn version_check(older: &Path, version: u32, private: &TokenStream) -> TokenStream {
    let gap = format!(
        "`from` names an event of another version than {}: events of the versions between it and \
         version {version} could not be read, so come from the version just before",
        version.saturating_sub(1)
    );
    quote_spanned! {older.span()=>
        const _: () = ::core::assert!(
            <#older as #private::Event>::VERSION == #version - 1,
            #gap,
        );
    }
}
