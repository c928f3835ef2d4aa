//! Reads the function under the attribute, without looking into its body.

use proc_macro2::TokenStream;
use syn::{
    Attribute, Error, Result, Visibility,
    parse::{ParseStream, Parser},
};

/// A function. Its body stays unread, since the macro copies the item as it is.
pub(super) struct Function {
    pub(super) attributes: Vec<Attribute>,
    pub(super) visibility: Visibility,
    pub(super) signature: syn::Signature,
}

/// Reads a function. Any other item is an error with the text `teach`.
pub(super) fn function(item: &TokenStream, teach: &str) -> Result<Function> {
    Parser::parse2(|input: ParseStream<'_>| parse(input, teach), item.clone())
}

fn parse(input: ParseStream<'_>, teach: &str) -> Result<Function> {
    let attributes = input.call(Attribute::parse_outer)?;
    let start = input.span();
    let visibility = input.parse()?;
    // Reported at the start of the item, where `struct` or `mod` stands, not where parsing failed.
    let signature = input.parse().map_err(|_| Error::new(start, teach))?;
    let _body: TokenStream = input.parse()?;

    Ok(Function {
        attributes,
        visibility,
        signature,
    })
}
