//! Resolves `key = field`, which names the field that holds the event's ordering key.

use crate::{attributes::Entry, suggest};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Fields, Ident, Index, LitStr, Member, Result, Token,
    ext::IdentExt as _, parse::ParseStream, punctuated::Punctuated,
};

/// A path of fields. The event is known to have the first; rustc checks the others.
pub(crate) struct EventKey(Vec<Member>);

impl EventKey {
    /// The expression of the key as text. If a field on the way is `None`, the event has no key.
    ///
    /// Whether a field is an `Option` is decided by its type, which may be an alias, and so by
    /// rustc: `PlainField` is the trait that its method lookup falls back to.
    pub(crate) fn expand(&self, private: &TokenStream) -> TokenStream {
        let value = steps(&quote!(self), &self.0, private);
        quote! {
            #[allow(unused_imports)]
            use #private::PlainField as _;
            #value
        }
    }
}

/// The expression that follows `path` from the value `from`.
fn steps(from: &TokenStream, path: &[Member], private: &TokenStream) -> TokenStream {
    let Some((member, rest)) = path.split_first() else {
        return TokenStream::new();
    };

    // A field that does not implement `Display` is underlined where the user named it.
    let span = Span::call_site().located_at(member_span(member));
    let inner = quote_spanned!(span=> __ezq_inner);
    let value = match rest {
        [] => quote! {
            ::core::option::Option::Some(::std::string::ToString::to_string(#inner))
        },
        rest => steps(&inner, rest, private),
    };

    let field = quote_spanned!(span=> &#from.#member);
    quote! {{
        let __ezq_field = #field;
        match #private::Field(__ezq_field).__ezq_kind().present(__ezq_field) {
            ::core::option::Option::Some(#inner) => { #value }
            ::core::option::Option::None => ::core::option::Option::None,
        }
    }}
}

fn member_span(member: &Member) -> Span {
    match member {
        Member::Named(ident) => ident.span(),
        Member::Unnamed(index) => index.span,
    }
}

pub(crate) fn resolve(entry: &Entry, input: &DeriveInput) -> Result<EventKey> {
    let path: Vec<Member> = entry.parse_with(members)??;
    // The index holds: both ways to read a path yield at least one member.
    let first = &path[0];
    let Data::Struct(data) = &input.data else {
        let message = "only a struct has a `key`: an enum's variants do not share a field";
        return Err(Error::new(entry.span, message));
    };
    field(&data.fields, first).ok_or_else(|| missing(&data.fields, first, input))?;
    Ok(EventKey(path))
}

/// Reads `"a.b"` or `a.b`.
///
/// The outer error means that the value is not a path at all, and the caller replaces it by one
/// that teaches the form. The inner error is a mistake inside a string, which keeps its own text.
fn members(input: ParseStream<'_>) -> Result<Result<Vec<Member>>> {
    if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        return Ok(literal
            .value()
            .split('.')
            .map(|part| member(part, literal.span()))
            .collect());
    }

    let parts = Punctuated::<Ident, Token![.]>::parse_separated_nonempty_with(input, |input| {
        // Without quotes rustc would read `a.0.1` as the number 0.1 behind `a`.
        if input.peek(syn::LitInt) {
            Err(input.error("a string"))
        } else {
            Ident::parse_any(input)
        }
    })?;

    Ok(parts
        .iter()
        .map(|part| member(&part.unraw().to_string(), part.span()))
        .collect())
}

fn member(part: &str, span: Span) -> Result<Member> {
    if let Ok(index) = part.parse::<u32>() {
        return Ok(Member::Unnamed(Index { index, span }));
    }

    // A keyword is a field's name in its raw form only.
    let ident = syn::parse_str::<Ident>(part).or_else(|_| syn::parse_str(&format!("r#{part}")));
    match ident {
        Ok(mut ident) => {
            ident.set_span(span);
            Ok(Member::Named(ident))
        }
        Err(_) => Err(Error::new(
            span,
            "`key` names a field of the event: write `key = \"customer_id\"`, or \
             `key = \"customer.id\"` for a field of a field",
        )),
    }
}

fn field<'a>(fields: &'a Fields, member: &Member) -> Option<&'a syn::Field> {
    match member {
        Member::Named(name) => fields.iter().find(|field| {
            field
                .ident
                .as_ref()
                .is_some_and(|i| i.unraw() == name.unraw())
        }),
        Member::Unnamed(index) => fields
            .iter()
            .nth(index.index as usize)
            .filter(|field| field.ident.is_none()),
    }
}

fn missing(fields: &Fields, member: &Member, input: &DeriveInput) -> Error {
    let name = member_name(member);
    let names: Vec<String> = fields
        .members()
        .map(|member| member_name(&member))
        .collect();

    let hint = match suggest::nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!(": did you mean `{near}`?"),
        None if names.is_empty() => String::new(),
        None => format!(": its fields are `{}`", names.join("`, `")),
    };
    let message = format!("`{}` has no field `{name}`{hint}", input.ident.unraw());
    Error::new(member_span(member), message)
}

fn member_name(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
