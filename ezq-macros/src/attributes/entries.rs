//! The arguments of one macro call, read one by one.

use super::entry::{Entry, Key, value};
use crate::{errors::Errors, suggest};
use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{Error, Result, ext::IdentExt as _};

/// The arguments of one macro call, gathered from one attribute or several.
pub(crate) struct Entries {
    keys: &'static [Key],
    pub(super) found: Vec<Entry>,
}

impl Entries {
    pub(crate) fn new(keys: &'static [Key]) -> Self {
        Self {
            keys,
            found: Vec::new(),
        }
    }

    /// Reads `a = 1, b(...), c = "x"`. What is read from several attributes adds up.
    pub(crate) fn read(&mut self, arguments: TokenStream, errors: &mut Errors) {
        // Commas are split here, not by syn: syn's parser stops at the first mistake, and the other
        // arguments would stay unread.
        let mut item = Vec::new();
        for token in arguments {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ',' => {
                    if item.is_empty() {
                        errors.push(Error::new(punct.span(), "expected a key before this comma"));
                    }
                    self.read_item(std::mem::take(&mut item), errors);
                }
                _ => item.push(token),
            }
        }
        self.read_item(item, errors);
    }

    fn read_item(&mut self, item: Vec<TokenTree>, errors: &mut Errors) {
        let mut tokens = item.into_iter();
        let ident = match tokens.next() {
            None => return,
            Some(TokenTree::Ident(ident)) => ident,
            Some(other) => {
                errors.push(Error::new(
                    other.span(),
                    format!("expected a key: {}", self.listed()),
                ));
                return;
            }
        };

        let Some(key) = errors.take(self.known(&ident)) else {
            return;
        };
        let Some(value) = errors.take(value(key, &ident, tokens)) else {
            return;
        };
        if !key.repeatable && self.find(key.name).is_some() {
            let message = format!("`{}` is given twice: keep one of them", key.name);
            errors.push(Error::new(ident.span(), message));
            return;
        }

        self.found.push(Entry {
            key,
            span: ident.span(),
            value,
        });
    }

    fn known(&self, ident: &Ident) -> Result<&'static Key> {
        // `r#type` is `type`: an editor may write keywords in their raw form.
        let name = ident.unraw().to_string();
        if let Some(key) = self.keys.iter().find(|key| key.name == name) {
            return Ok(key);
        }

        let hint = match suggest::nearest(&name, self.keys.iter().map(|key| key.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => self.listed(),
        };
        Err(Error::new(
            ident.span(),
            format!("unknown key `{name}`: {hint}"),
        ))
    }

    fn listed(&self) -> String {
        let names: Vec<_> = self
            .keys
            .iter()
            .map(|key| format!("`{}`", key.name))
            .collect();
        match names.as_slice() {
            [only] => format!("the only key is {only}"),
            _ => format!("the keys are {}", names.join(", ")),
        }
    }

    /// The checked value of a key. `None` if the key is absent, and after a mistake in its value.
    pub(crate) fn value<T>(
        &self,
        name: &str,
        check: impl FnOnce(&Entry) -> Result<T>,
        errors: &mut Errors,
    ) -> Option<T> {
        self.find(name).and_then(|entry| errors.take(check(entry)))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.all(name).next()
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.found
            .iter()
            .filter(move |entry| entry.key.name == name)
    }
}

/// The path to `::ezq::__private`, or to the same module of the crate that `crate = path` names.
pub(crate) fn private(entries: &Entries, errors: &mut Errors) -> TokenStream {
    entries
        .find("crate")
        .and_then(|entry| errors.take(entry.parse_with(syn::Path::parse_mod_style)))
        .map_or_else(
            || quote::quote!(::ezq::__private),
            |path| quote::quote!(#path::__private),
        )
}
