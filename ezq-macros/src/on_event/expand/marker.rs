//! Writes the type that stands beside a handler function and has its name.
//!
//! A type cannot stand in an `impl`, and no macro sees that its function is a method. So that
//! rustc reports one error there, the definition hangs on the type, by `beside`. So that the error
//! says what to do, a macro writes the type whose name is the advice: rustc names the macro that an
//! error comes from.

use super::super::parse::Function;
use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::Attribute;

/// The handler as a type, with its definition.
pub(super) fn handler(
    function: &Function,
    definition: &TokenStream,
    private: &TokenStream,
) -> TokenStream {
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

/// What a mistaken handler leaves behind: its name, so that registering it is no second error.
pub(crate) fn fallback(function: &Function, private: &TokenStream) -> TokenStream {
    let ident = &function.signature.ident;
    let definition = quote! {
        #[automatically_derived]
        impl #private::HandlerDefinition for #ident {
            fn definition() -> #private::Handler { ::core::unreachable!() }
        }
    };
    handler(function, &definition, private)
}

/// The attributes that decide whether the function exists. They decide it for the type as well, and
/// for the definition that hangs on it.
fn conditions(attributes: &[Attribute]) -> Vec<&Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .collect()
}

/// A handler's type, from what stands before `struct`, and its name.
///
/// The braces of the body keep the type out of the namespace where the function lives. Keyword and
/// body are this macro's own tokens, so that rustc's error names this macro; they are placed at the
/// function's name, so that it points there.
pub(crate) fn handler_type(input: TokenStream) -> TokenStream {
    let mut before: Vec<TokenTree> = input.into_iter().collect();
    let name = before.pop();
    let place = name.as_ref().map_or_else(Span::call_site, TokenTree::span);

    let keyword = Ident::new("struct", Span::call_site().located_at(place));
    let mut body = Group::new(Delimiter::Brace, TokenStream::new());
    body.set_span(keyword.span());
    quote!(#(#before)* #keyword #name #body)
}
