//! `#[derive(EventSet)]`: an enum with one event in each variant, for handlers of several types.

use crate::{
    attributes::{self, Key},
    errors::Errors,
    event,
};
use proc_macro2::TokenStream;
use quote::{ToTokens as _, quote};
use syn::{Data, DeriveInput, Error, Fields, Ident, Type, Variant};

const KEYS: &[Key] = &[Key::once("crate", "crate = path::to::ezq")];

/// One variant and the event it holds.
struct Member<'a> {
    variant: &'a Ident,
    event: &'a Type,
}

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let entries = event::read(input, KEYS, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    event::refuse_generics(&input.generics, &mut errors);
    let members = members(input, &mut errors);

    match errors.finish() {
        Ok(()) => expand(input, &private, &members),
        Err(error) => {
            let error = error.into_compile_error();
            let fallback = fallback(input, &private);
            quote!(#error #fallback)
        }
    }
}

fn members<'a>(input: &'a DeriveInput, errors: &mut Errors) -> Vec<Member<'a>> {
    let data = match &input.data {
        Data::Enum(data) => data,
        Data::Struct(_) | Data::Union(_) => {
            let message = "an event set is an enum with one event in each variant: write \
                           `enum Account { Opened(AccountOpened), Closed(AccountClosed) }`";
            errors.push(Error::new(input.ident.span(), message));
            return Vec::new();
        }
    };
    if data.variants.is_empty() {
        let message = "an event set needs a variant: write `Opened(AccountOpened)`";
        errors.push(Error::new(input.ident.span(), message));
    }

    let mut members: Vec<Member<'a>> = Vec::new();
    for variant in &data.variants {
        let Some(member) = errors.take(member(variant)) else {
            continue;
        };
        // Two spellings of one type are left to rustc, by `OneVariantEach`.
        let written = member.event.to_token_stream().to_string();
        match members
            .iter()
            .find(|m| m.event.to_token_stream().to_string() == written)
        {
            Some(earlier) => errors.push(Error::new_spanned(
                member.event,
                format!(
                    "`{}` holds this event already: drop one of the two",
                    earlier.variant
                ),
            )),
            None => members.push(member),
        }
    }
    members
}

fn member(variant: &Variant) -> syn::Result<Member<'_>> {
    match &variant.fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Ok(Member {
            variant: &variant.ident,
            event: &fields.unnamed[0].ty,
        }),
        _ => {
            let name = &variant.ident;
            let message = format!("a variant holds exactly one event: write `{name}(MyEvent)`");
            Err(Error::new_spanned(variant, message))
        }
    }
}

/// The impl of `FromEvent`. It mentions each event in one function only, because rustc reports a
/// type that is not an event once for each function that mentions it.
fn expand(input: &DeriveInput, private: &TokenStream, members: &[Member<'_>]) -> TokenStream {
    let ident = &input.ident;
    let count = members.len();
    let rows = members.iter().map(|Member { variant, event }| {
        quote! {
            (
                // Closures without captures, so that the table can be a constant.
                || #private::EventDescriptor::of::<#event>(),
                |__ezq_received: &#private::Received| {
                    ::core::result::Result::map(__ezq_received.decode::<#event>(), #ident::#variant)
                },
            )
        }
    });
    // Only rustc sees that two paths name one type. It accepts one of these impls for each type.
    let once = members.iter().map(|Member { event, .. }| {
        quote!(#[automatically_derived] impl #private::OneVariantEach<#ident> for #event {})
    });

    quote! {
        // An event may be deprecated and still arrive, so it belongs in the set without a warning.
        #[allow(deprecated)]
        const _: () = {
            #(#once)*

            type __EzqRow = (
                fn() -> #private::EventDescriptor,
                fn(&#private::Received) -> ::core::result::Result<#ident, #private::HandlerError>,
            );
            const __EZQ_ROWS: [__EzqRow; #count] = [#(#rows),*];

            #[automatically_derived]
            impl #private::FromEvent for #ident {
                fn subscription() -> #private::Subscription {
                    #private::Subscription::of(
                        ::core::iter::Iterator::collect(::core::iter::Iterator::map(
                            ::core::iter::IntoIterator::into_iter(__EZQ_ROWS),
                            |__ezq_row| (__ezq_row.0)(),
                        )),
                    )
                }

                fn from_event(
                    __ezq_received: &#private::Received,
                ) -> ::core::result::Result<Self, #private::HandlerError> {
                    let __ezq_types = __EZQ_ROWS.map(|__ezq_row| (__ezq_row.0)());
                    match __ezq_received.choose(&__ezq_types) {
                        ::core::option::Option::Some(__ezq_place) => {
                            (__EZQ_ROWS[__ezq_place].1)(__ezq_received)
                        }
                        ::core::option::Option::None => {
                            ::core::result::Result::Err(__ezq_received.unexpected())
                        }
                    }
                }
            }
        };
    }
}

/// An impl that keeps handlers of a mistaken set from raising errors as well.
fn fallback(input: &DeriveInput, private: &TokenStream) -> TokenStream {
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics #private::FromEvent for #ident #type_generics #where_clause {
            fn subscription() -> #private::Subscription { ::core::unreachable!() }
            fn from_event(
                _: &#private::Received,
            ) -> ::core::result::Result<Self, #private::HandlerError> {
                ::core::unreachable!()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn mistakes(input: &DeriveInput) -> Vec<String> {
        let mut errors = Errors::default();
        event::read(input, KEYS, &mut errors);
        members(input, &mut errors);
        match errors.finish() {
            Ok(()) => Vec::new(),
            Err(error) => error.into_iter().map(|error| error.to_string()).collect(),
        }
    }

    #[test]
    fn lists_every_variant_once() {
        let input = parse_quote!(
            enum Account {
                Opened(AccountOpened),
                Closed(events::AccountClosed),
            }
        );
        let text = derive(&input).to_string().replace(' ', "");
        assert!(!text.contains("compile_error"), "{text}");
        assert!(text.contains("FromEventforAccount"), "{text}");
        assert_eq!(text.matches("of::<AccountOpened>").count(), 1);
        assert_eq!(text.matches("decode::<events::AccountClosed>").count(), 1);
    }

    #[test]
    fn refuses_other_shapes() {
        assert!(
            mistakes(&parse_quote!(
                struct S(A);
            ))[0]
                .contains("is an enum")
        );
        assert!(
            mistakes(&parse_quote!(
                enum S {}
            ))[0]
                .contains("needs a variant")
        );
        for variant in ["A", "A()", "A(B, C)", "A { b: B }"] {
            let input: DeriveInput =
                syn::parse_str(&format!("enum S {{ {variant} }}")).expect(variant);
            assert_eq!(
                mistakes(&input),
                ["a variant holds exactly one event: write `A(MyEvent)`"],
                "{variant}"
            );
        }
    }

    #[test]
    fn refuses_one_event_in_two_variants() {
        assert_eq!(
            mistakes(&parse_quote!(
                enum S {
                    A(E),
                    B(E),
                }
            )),
            ["`A` holds this event already: drop one of the two"]
        );
    }

    #[test]
    fn takes_no_key_but_crate() {
        assert_eq!(
            mistakes(&parse_quote!(
                #[event(version = 2)]
                enum S {
                    A(E),
                }
            )),
            ["unknown key `version`: the only key is `crate`"]
        );
    }
}
