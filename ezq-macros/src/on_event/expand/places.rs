//! Places in the user's source, to which the code that may not fit is spanned.

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens as _;
use syn::ReturnType;

/// Where the return type stands; the function's name if there is none.
///
/// rustc underlines an expression from its first token to its last. So code that should be
/// underlined at the return type begins at `first` and ends at `last`.
pub(super) struct ReturnPlace {
    pub(super) first: Span,
    pub(super) last: Span,
}

impl ReturnPlace {
    pub(super) fn of(ident: &Ident, output: &ReturnType) -> Self {
        let ReturnType::Type(_, ty) = output else {
            return Self {
                first: ident.span(),
                last: ident.span(),
            };
        };
        let mut spans = ty.to_token_stream().into_iter().map(|token| token.span());
        let first = spans.next().unwrap_or(ident.span());
        let last = spans.last().unwrap_or(first);
        Self { first, last }
    }
}

/// The same path, at another place in the source.
pub(super) fn located(path: &TokenStream, place: Span) -> TokenStream {
    path.clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(token.span().located_at(place));
            token
        })
        .collect()
}
