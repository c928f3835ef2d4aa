//! `#[ezq::test]`: an async function as a test with a database of its own.

use crate::{
    attributes::{self, Entries, Key},
    errors::Errors,
};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, Ident, ItemFn, ReturnType, spanned::Spanned as _};

const KEYS: &[Key] = &[Key::once("crate", "crate = path::to::ezq")];

/// Expands the attribute. After a mistake the function stays as it is, so that the mistake is the only
/// error.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let mut entries = Entries::new(KEYS);
    entries.read(arguments, &mut errors);
    let private = attributes::private(&entries, &mut errors);

    let teach = "`#[ezq::test]` goes on a function: write `async fn it_works(db: TestDatabase)`";
    let function =
        syn::parse2::<ItemFn>(item.clone()).map_err(|error| Error::new(error.span(), teach));
    let Some(function) = errors.take(function) else {
        return with_errors(errors, &item);
    };
    check(&function, &mut errors);
    if errors.is_empty() {
        write(&function, &private)
    } else {
        with_errors(errors, &quote!(#[allow(dead_code)] #item))
    }
}

fn with_errors(errors: Errors, item: &TokenStream) -> TokenStream {
    let error = errors.finish().err().map(Error::into_compile_error);
    quote!(#error #item)
}

fn check(function: &ItemFn, errors: &mut Errors) {
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        let teach = "a test on a database is async: write `async fn`";
        errors.push(Error::new(signature.fn_token.span, teach));
    }
    if !signature.generics.params.is_empty() {
        let teach = "a test has no generic parameters: nothing would choose them";
        errors.push(Error::new(signature.generics.span(), teach));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        let teach = "a test is a free function: move it out of the `impl`";
        errors.push(Error::new(receiver.span(), teach));
    }
}

fn write(function: &ItemFn, private: &TokenStream) -> TokenStream {
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
        ..
    } = function;
    let name: &Ident = &sig.ident;
    let inputs = &sig.inputs;
    let output: &ReturnType = &sig.output;
    let should_panic = attrs
        .iter()
        .any(|attribute| attribute.path().is_ident("should_panic"));

    // The span of the type, so that one that no test can take is reported there.
    let parameters = inputs.iter().filter_map(|input| match input {
        FnArg::Typed(parameter) => {
            let kind = &parameter.ty;
            let span = kind.span();
            Some(quote::quote_spanned!(span=> #private::parameter::<#kind>(&__ezq_database).await))
        }
        FnArg::Receiver(_) => None,
    });
    quote! {
        #(#attrs)*
        #[::core::prelude::v1::test]
        #vis fn #name() #output {
            async fn #name(#inputs) #output #block

            #private::run(
                ::core::concat!(
                    ::core::env!("CARGO_MANIFEST_DIR"), " ", ::core::module_path!(), "::",
                    ::core::stringify!(#name)
                ),
                #should_panic,
                |__ezq_database| async move { #name(#(#parameters),*).await },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).to_string()
    }

    #[test]
    fn a_test_is_a_plain_test_that_makes_its_parameters() {
        let item = quote!(
            #[should_panic]
            async fn works(db: TestDatabase, pool: PgPool) -> Result<(), Error> {}
        );
        let text = errors(quote!(crate = my::ezq), item);
        assert!(text.contains("my :: ezq :: __private :: run"), "{text}");
        assert!(text.contains("parameter :: < PgPool >"), "{text}");
        assert!(text.contains(", true ,"), "it should panic: {text}");
    }

    #[test]
    fn mistakes_are_named_together() {
        let text = errors(
            quote!(flavor = "x"),
            quote!(
                fn works<T>() {}
            ),
        );
        for teach in ["flavor", "async fn", "generic"] {
            assert!(text.contains(teach), "{teach}: {text}");
        }
        assert!(
            errors(
                quote!(),
                quote!(
                    struct No;
                )
            )
            .contains("goes on a function")
        );
    }
}
