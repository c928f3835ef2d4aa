//! Checks a handler's signature. The errors say what to write in its place.

use super::parse::Function;
use crate::errors::Errors;
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{
    Attribute, Error, FnArg, Pat, PatType, PathArguments, ReceiverKind, Result, ReturnType, Safety,
    Type,
};

/// A handler's first parameter.
#[derive(Clone, Copy)]
pub(super) enum First<'a> {
    Event(&'a Type),
    /// Written as `Batch<..>`.
    Batch(&'a Type),
    /// Written as `Tick`, in a function with a schedule.
    Tick,
    /// A function with a schedule takes no tick: its first parameter is an extractor, or there is none.
    None,
}

/// The types in a handler's signature.
pub(super) struct Signature<'a> {
    pub(super) first: First<'a>,
    pub(super) extractors: Vec<&'a Type>,
    pub(super) output: &'a ReturnType,
}

pub(super) fn validate<'a>(function: &'a Function, errors: &mut Errors) -> Option<Signature<'a>> {
    let signature = &function.signature;
    let parameters = parameters(signature, errors)?;
    let Some((event, extractors)) = parameters.split_first() else {
        let message = format!(
            "a handler takes its event as the first parameter: write `async fn {}(event: MyEvent)`",
            signature.ident
        );
        errors.push(Error::new(signature.ident.span(), message));
        return None;
    };

    // An alias of `Batch` passes as an event here. rustc then reports that it is none.
    let is_batch = is_named(event, "Batch", |arguments| !arguments.is_empty());
    let first = if is_batch {
        First::Batch(event)
    } else {
        First::Event(event)
    };
    Some(Signature {
        first,
        extractors: extractors.to_vec(),
        output: &signature.output,
    })
}

/// Checks the signature of a function with a schedule, which need not take its tick.
pub(super) fn validate_scheduled<'a>(
    function: &'a Function,
    errors: &mut Errors,
) -> Option<Signature<'a>> {
    let signature = &function.signature;
    let mut extractors = parameters(signature, errors)?;
    let takes_tick = extractors
        .first()
        .is_some_and(|ty| is_named(ty, "Tick", PathArguments::is_empty));
    let first = if takes_tick { First::Tick } else { First::None };
    if takes_tick {
        extractors.remove(0);
    }
    Some(Signature {
        first,
        extractors,
        output: &signature.output,
    })
}

/// The types of the parameters. Of each part of the signature the first mistake is reported.
fn parameters<'a>(signature: &'a syn::Signature, errors: &mut Errors) -> Option<Vec<&'a Type>> {
    if let Some(receiver) = signature.receiver() {
        let span = match receiver.kind {
            ReceiverKind::Reference(and, ..) => and.span,
            _ => receiver.self_token.span,
        };
        let message = "a handler is a free function, without `self`: move it out of the `impl`, \
                       and take shared state as `State<T>`";
        errors.push(Error::new(span, message));
        return None;
    }

    errors.take(qualifiers(signature));
    errors.take(generics(signature));

    let typed: Vec<&PatType> = signature.inputs.iter().filter_map(as_typed).collect();
    for parameter in &typed {
        errors.take(owned(parameter));
    }
    Some(typed.iter().map(|parameter| &*parameter.ty).collect())
}

/// Whether the type is written by this name. Macros cannot see through an alias.
fn is_named(ty: &Type, name: &str, has: impl Fn(&PathArguments) -> bool) -> bool {
    let Type::Path(path) = ungrouped(ty) else {
        return false;
    };
    path.path
        .segments
        .last()
        .is_some_and(|last| last.ident == name && has(&last.arguments))
}

fn as_typed(argument: &FnArg) -> Option<&PatType> {
    match argument {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    }
}

fn qualifiers(signature: &syn::Signature) -> Result<()> {
    if let Safety::Unsafe(token) = signature.safety {
        return Err(Error::new(
            token.span,
            "a handler is called by the consumer, which cannot vouch for `unsafe`: drop it",
        ));
    }

    if let Some(abi) = &signature.abi {
        let message = "a handler is a plain Rust function: drop the `extern`";
        return Err(Error::new(abi.extern_token.span, message));
    }

    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(
            variadic,
            "a handler has a fixed list of parameters",
        ));
    }

    if signature.asyncness.is_none() {
        let message = format!("a handler is async: write `async fn {}`", signature.ident);
        return Err(Error::new(signature.fn_token.span, message));
    }
    Ok(())
}

fn generics(signature: &syn::Signature) -> Result<()> {
    if signature.generics.params.is_empty() {
        return Ok(());
    }
    let message = "a handler takes no generic parameters: it is registered once, so write the \
                   types it handles, or an enum with `#[derive(EventSet)]`";
    Err(Error::new_spanned(&signature.generics.params, message))
}

fn owned(parameter: &PatType) -> Result<()> {
    if let Some(attribute) = parameter.attrs.iter().find(|a| is_conditional(a)) {
        let message = "a handler's parameters are fixed: put the `#[cfg]` on the whole function";
        return Err(Error::new_spanned(attribute, message));
    }

    if let Type::Reference(reference) = ungrouped(&parameter.ty) {
        let taken = reference.elem.to_token_stream();
        let message = match &*parameter.pat {
            Pat::Ident(name) => {
                format!("take it by value: write `{}: {}`", name.ident, tidy(&taken))
            }
            _ => format!("take it by value: write `{}`", tidy(&taken)),
        };
        return Err(Error::new(reference.and_token.span, message));
    }

    // Searched as tokens, since it may stand anywhere within, as in `State<impl Trait>`.
    match find_impl(parameter.ty.to_token_stream()) {
        Some(span) => Err(Error::new(
            span,
            "`impl Trait` makes a handler generic, and it is registered once: write the type",
        )),
        None => Ok(()),
    }
}

fn is_conditional(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
}

/// The type inside the invisible groups that `macro_rules` puts around types.
fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        ty => ty,
    }
}

fn find_impl(tokens: TokenStream) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(ident) if ident == "impl" => Some(ident.span()),
        TokenTree::Group(group) => find_impl(group.stream()),
        _ => None,
    })
}

/// A type as people write it, or nearly so: only messages use it.
fn tidy(tokens: &TokenStream) -> String {
    let spaced = tokens.to_string();
    [
        (" :: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" <", "<"),
        (" >", ">"),
        (" ,", ","),
    ]
    .into_iter()
    .fold(spaced, |text, (from, to)| text.replace(from, to))
}
