//! Resolves `key = field`: which field of the event orders it.

use crate::{attributes::Entry, suggest};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Fields, Ident, Index, LitStr, Member, Result, Token, Type,
    ext::IdentExt as _, parse::ParseStream, punctuated::Punctuated,
};

/// A path of fields, the first of which the event is known to have.
pub(crate) struct EventKey {
    path: Vec<Member>,
    /// An event whose key is absent has none, rather than one that all of them share.
    optional: bool,
}

impl EventKey {
    pub(crate) fn expand(&self) -> TokenStream {
        let span = self.path.last().map_or_else(Span::call_site, member_span);
        let path = &self.path;
        let field = quote_spanned!(span=> &self #(.#path)*);
        if self.optional {
            quote! {
                ::core::option::Option::map(
                    ::core::option::Option::as_ref(#field),
                    ::std::string::ToString::to_string,
                )
            }
        } else {
            quote!(::core::option::Option::Some(::std::string::ToString::to_string(#field)))
        }
    }
}

fn member_span(member: &Member) -> Span {
    match member {
        Member::Named(ident) => ident.span(),
        Member::Unnamed(index) => index.span,
    }
}

pub(crate) fn resolve(entry: &Entry, input: &DeriveInput) -> Result<EventKey> {
    let path: Vec<Member> = entry.parse_with(members)??;
    let first = &path[0];
    let Data::Struct(data) = &input.data else {
        let message = "only a struct has a `key`: an enum's variants do not share a field";
        return Err(Error::new(entry.span, message));
    };
    let field = field(&data.fields, first).ok_or_else(|| missing(&data.fields, first, input))?;
    Ok(EventKey { optional: path.len() == 1 && is_option(&field.ty), path })
}

/// Reads `"a.b"` or `a.b`. What is wrong inside a string is an error of its own, apart from the
/// value not being a path at all.
fn members(input: ParseStream<'_>) -> Result<Result<Vec<Member>>> {
    if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        return Ok(literal.value().split('.').map(|part| member(part, literal.span())).collect());
    }
    let parts = Punctuated::<Ident, Token![.]>::parse_separated_nonempty_with(input, |input| {
        if input.peek(syn::LitInt) { Err(input.error("a string")) } else { Ident::parse_any(input) }
    })?;
    Ok(parts.iter().map(|part| member(&part.unraw().to_string(), part.span())).collect())
}

fn member(part: &str, span: Span) -> Result<Member> {
    if let Ok(index) = part.parse::<u32>() {
        return Ok(Member::Unnamed(Index { index, span }));
    }
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
        Member::Named(name) => fields
            .iter()
            .find(|field| field.ident.as_ref().is_some_and(|i| i.unraw() == name.unraw())),
        Member::Unnamed(index) => {
            fields.iter().nth(index.index as usize).filter(|field| field.ident.is_none())
        }
    }
}

fn missing(fields: &Fields, member: &Member, input: &DeriveInput) -> Error {
    let name = match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    };
    let names: Vec<String> = fields
        .members()
        .map(|member| match member {
            Member::Named(ident) => ident.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        })
        .collect();
    let hint = match suggest::nearest(&name, names.iter().map(String::as_str)) {
        Some(near) => format!(": did you mean `{near}`?"),
        None if names.is_empty() => String::new(),
        None => format!(": its fields are `{}`", names.join("`, `")),
    };
    let message = format!("`{}` has no field `{name}`{hint}", input.ident.unraw());
    Error::new(member_span(member), message)
}

/// Whether a type is written as an `Option`; an alias of one is not seen.
fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Group(group) => is_option(&group.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| {
            segment.ident == "Option" && !segment.arguments.to_token_stream().is_empty()
        }),
        _ => false,
    }
}
