//! `#[derive(Event)]`: the name, version, queue and key of one event type.

mod key;

use crate::{
    attributes::{self, Entries, Entry, Key},
    errors::Errors,
};
use key::EventKey;
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Data, DeriveInput, Error, Generics, LitStr, Meta, Path, ext::IdentExt as _,
    spanned::Spanned as _,
};

const KEYS: &[Key] = &[
    Key::once("type", "type = \"user.created\""),
    Key::once("version", "version = 2"),
    Key::once("queue", "queue = \"orders\""),
    Key::once("key", "key = \"customer_id\""),
    Key::once("codec", "codec = \"raw\""),
    Key::once("from", "from = UserCreatedV1"),
    Key::repeatable("alias", "alias = \"UserCreated\""),
    Key::once("crate", "crate = path::to::ezq"),
];

/// The longest queue name, as PGMQ has it.
const QUEUE_MAX: usize = 47;

/// What `#[event(...)]` says, checked.
struct Options {
    name: LitStr,
    version: u32,
    aliases: Vec<LitStr>,
    queue: Option<LitStr>,
    key: Option<EventKey>,
    codec: Option<LitStr>,
    from: Option<Path>,
}

impl Options {
    fn defaults(input: &DeriveInput) -> Self {
        Self {
            name: LitStr::new(&input.ident.unraw().to_string(), input.ident.span()),
            version: 1,
            aliases: Vec::new(),
            queue: None,
            key: None,
            codec: None,
            from: None,
        }
    }
}

/// Expands the derive. After a mistake the type still is an event, so that the mistake is the only
/// error and no handler of the type complains as well.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let entries = read(input, KEYS, &mut errors);
    let private = attributes::private(&entries, &mut errors);
    check_shape(input, &mut errors);
    let options = validate(input, &entries, &mut errors);
    match errors.finish() {
        Ok(()) => expand(input, &private, &options),
        Err(error) => {
            let error = error.into_compile_error();
            // For a generic type rustc would ask for bounds that the user cannot need.
            let fallback = input
                .generics
                .params
                .is_empty()
                .then(|| expand(input, &private, &Options::defaults(input)));
            quote!(#error #fallback)
        }
    }
}

/// Gathers `#[event(...)]` from the item, and refuses it on fields and variants.
pub(crate) fn read(input: &DeriveInput, keys: &'static [Key], errors: &mut Errors) -> Entries {
    let mut entries = Entries::new(keys);
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
        match &attribute.meta {
            Meta::List(list) => entries.read(list.tokens.clone(), errors),
            Meta::Path(_) | Meta::NameValue(_) => {
                let message = format!("write `#[event({})]`", keys[0].form);
                errors.push(Error::new_spanned(&attribute.meta, message));
            }
        }
    }
    let misplaced = |attributes: &[Attribute], errors: &mut Errors| {
        for attribute in attributes.iter().filter(|a| a.path().is_ident("event")) {
            let message = "`#[event(...)]` belongs above the whole type, not inside it";
            errors.push(Error::new_spanned(attribute.path(), message));
        }
    };
    let fields = |fields: &syn::Fields, errors: &mut Errors| {
        fields
            .iter()
            .for_each(|field| misplaced(&field.attrs, errors));
    };
    match &input.data {
        Data::Struct(data) => fields(&data.fields, errors),
        Data::Union(_) => {}
        Data::Enum(data) => {
            for variant in &data.variants {
                misplaced(&variant.attrs, errors);
                fields(&variant.fields, errors);
            }
        }
    }
    entries
}

fn check_shape(input: &DeriveInput, errors: &mut Errors) {
    if let Data::Union(data) = &input.data {
        let message = "a union cannot be an event: use a struct or an enum";
        errors.push(Error::new(data.union_token.span, message));
    }
    refuse_generics(&input.generics, errors);
}

pub(crate) fn refuse_generics(generics: &Generics, errors: &mut Errors) {
    if !generics.params.is_empty() {
        let message = "an event type takes no generic parameters: one name on the wire stands for \
                       one type, so write a type of its own for each";
        errors.push(Error::new_spanned(&generics.params, message));
    }
}

fn validate(input: &DeriveInput, entries: &Entries, errors: &mut Errors) -> Options {
    let mut options = Options::defaults(input);
    if let Some(name) = entries
        .find("type")
        .and_then(|entry| errors.take(type_name(entry)))
    {
        options.name = name;
    }
    for entry in entries.all("alias") {
        let Some(alias) = errors.take(type_name(entry)) else {
            continue;
        };
        let text = alias.value();
        if text == options.name.value() {
            let message = "this alias is the type's own name: drop it";
            errors.push(Error::new(alias.span(), message));
        } else if options.aliases.iter().any(|other| other.value() == text) {
            errors.push(Error::new(
                alias.span(),
                "this alias is given twice: keep one of them",
            ));
        } else {
            options.aliases.push(alias);
        }
    }
    if let Some(version) = entries
        .find("version")
        .and_then(|e| errors.take(e.positive()))
    {
        options.version = version;
    }
    options.queue = entries
        .find("queue")
        .and_then(|entry| errors.take(queue_name(entry)));
    if let Some(entry) = entries.find("from") {
        options.from = errors.take(entry.parse::<Path>());
        if options.version == 1 && entries.find("version").is_none() {
            let message = "an event that comes `from` an older one has a `version` of at least 2: write \
                           `version = 2` beside it";
            errors.push(Error::new(entry.span, message));
        }
    }
    options.codec = entries
        .find("codec")
        .and_then(|entry| errors.take(codec_name(entry)));
    options.key = entries
        .find("key")
        .and_then(|e| errors.take(key::resolve(e, input)));
    options
}

/// Spaces within are allowed: a captured table may have them in its name.
fn type_name(entry: &Entry) -> syn::Result<LitStr> {
    let literal = entry.text()?;
    let text = literal.value();
    if text.trim() != text {
        let message = format!(
            "`{}` must not begin or end with white space",
            entry.key.name
        );
        return Err(Error::new(literal.span(), message));
    }
    Ok(literal)
}

fn codec_name(entry: &Entry) -> syn::Result<LitStr> {
    let literal = entry.text()?;
    if literal.value().contains(char::is_whitespace) {
        let message = format!("`{}` must not contain white space", entry.key.name);
        return Err(Error::new(literal.span(), message));
    }
    Ok(literal)
}

pub(crate) fn queue_name(entry: &Entry) -> syn::Result<LitStr> {
    let literal: LitStr = entry.parse()?;
    let name = literal.value();
    // As `ezq::QueueName` reads it.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.:/@".contains(&b);
    let fits = (1..=QUEUE_MAX).contains(&name.len())
        && name.bytes().all(is_allowed)
        && !name.contains("--");
    if fits {
        return Ok(literal);
    }
    let message = format!(
        "\"{}\" is not a queue name: write 1 to {QUEUE_MAX} letters, digits or `_ - . : / @`, without \
         `--`, such as \"orders\"",
        name.escape_debug()
    );
    Err(Error::new(literal.span(), message))
}

fn expand(input: &DeriveInput, private: &TokenStream, options: &Options) -> TokenStream {
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
    let optional = |value: &Option<LitStr>| match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    };
    let (queue, codec) = (optional(queue), optional(codec));
    let key = key.as_ref().map(|key| {
        let value = key.expand(private);
        quote! {
            fn key(&self) -> ::core::option::Option<::std::string::String> { #value }
        }
    });
    let upcast = from.as_ref().map(|older| {
        quote! {
            const OLDEST: u32 = <#older as #private::Event>::OLDEST;

            fn upcast(envelope: &#private::Envelope, _: u32) -> #private::Result<Self> {
                let older: #older = #private::Envelope::decode(envelope)?;
                ::core::result::Result::Ok(::core::convert::From::from(older))
            }
        }
    });
    // A constant of its own: rustc looks into those of functions only when they are called.
    let chain = from.as_ref().map(|older| {
        let gap = format!(
            "`from` names an event of another version than {}: events of the versions between it and \
             version {version} could not be read, so come from the version just before",
            version.saturating_sub(1)
        );
        let place = older.span();
        quote_spanned! {place=>
            const _: () = ::core::assert!(
                <#older as #private::Event>::VERSION == #version - 1,
                #gap,
            );
        }
    });
    // Where the trait's own bounds fail, rustc points at this mention of the type.
    let implementor = quote_spanned!(Span::call_site().located_at(ident.span())=> #ident);
    quote! {
        #[automatically_derived]
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

        #chain
    }
}

#[cfg(test)]
mod tests;
