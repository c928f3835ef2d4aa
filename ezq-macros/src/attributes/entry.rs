//! A key with its value, and the kinds of values that keys take.

use crate::duration;
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use std::time::Duration;
use syn::{
    Error, LitInt, LitStr, Result, Token,
    parse::{Parse, ParseStream, Parser},
};

/// A key that an attribute accepts.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// An example of the key and its value, for the messages that teach it.
    pub(crate) form: &'static str,
    pub(crate) repeatable: bool,
}

impl Key {
    pub(crate) const fn once(name: &'static str, form: &'static str) -> Self {
        Self {
            name,
            form,
            repeatable: false,
        }
    }

    pub(crate) const fn repeatable(name: &'static str, form: &'static str) -> Self {
        Self {
            name,
            form,
            repeatable: true,
        }
    }
}

/// One argument of an attribute whose key is known.
pub(crate) struct Entry {
    pub(crate) key: &'static Key,
    /// The key as the user wrote it.
    pub(crate) span: Span,
    pub(super) value: Value,
}

/// What stands behind a key.
pub(super) enum Value {
    Assigned(TokenStream),
    Listed(TokenStream),
}

/// Reads what stands behind a key.
pub(super) fn value(
    key: &'static Key,
    ident: &Ident,
    mut tokens: impl Iterator<Item = TokenTree>,
) -> Result<Value> {
    let teach = |span| Error::new(span, format!("write `{}`", key.form));
    let value = match tokens.next() {
        Some(TokenTree::Punct(punct)) if punct.as_char() == '=' => {
            Value::Assigned(tokens.by_ref().collect())
        }
        Some(TokenTree::Group(group)) => Value::Listed(group.stream()),
        Some(other) => return Err(teach(other.span())),
        None => return Err(teach(ident.span())),
    };

    // After `=` no token is left, so that only something behind a list can be extra.
    match (&value, tokens.next()) {
        (Value::Assigned(tokens), _) if tokens.is_empty() => Err(teach(ident.span())),
        (_, Some(extra)) => Err(Error::new(extra.span(), "expected a comma")),
        (_, None) => Ok(value),
    }
}

impl Entry {
    /// The error for a value of a kind that the key does not take.
    fn teach(&self, span: Span) -> Error {
        Error::new(
            span,
            format!("`{}` is written `{}`", self.key.name, self.key.form),
        )
    }

    /// The value right of the `=`, as the parser reads it.
    pub(crate) fn parse_with<P: Parser>(&self, parser: P) -> Result<P::Output> {
        match &self.value {
            Value::Listed(_) => Err(self.teach(self.span)),
            Value::Assigned(tokens) => {
                let first = tokens
                    .clone()
                    .into_iter()
                    .next()
                    .map_or(self.span, |t| t.span());
                // syn's own message, such as "expected string literal", does not say how the key
                // is written.
                parser.parse2(tokens.clone()).map_err(|_| self.teach(first))
            }
        }
    }

    pub(crate) fn parse<T: Parse>(&self) -> Result<T> {
        self.parse_with(T::parse)
    }

    /// The tokens between the parentheses.
    pub(crate) fn list(&self) -> Result<TokenStream> {
        match &self.value {
            Value::Listed(tokens) => Ok(tokens.clone()),
            Value::Assigned(_) => Err(self.teach(self.span)),
        }
    }

    /// A string that is not blank and has no control characters.
    pub(crate) fn text(&self) -> Result<LitStr> {
        let literal: LitStr = self.parse()?;
        let text = literal.value();
        if text.trim().is_empty() {
            return Err(Error::new(
                literal.span(),
                format!(
                    "`{}` must not be empty: write `{}`",
                    self.key.name, self.key.form
                ),
            ));
        }

        if text.contains(char::is_control) {
            return Err(Error::new(
                literal.span(),
                format!("`{}` must not contain control characters", self.key.name),
            ));
        }
        Ok(literal)
    }

    /// A whole number of at least 1.
    pub(crate) fn positive(&self) -> Result<u32> {
        let literal: LitInt = self.parse()?;
        match literal.base10_parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(Error::new(
                literal.span(),
                format!(
                    "`{}` must be at least 1 and at most {}: write `{}`",
                    self.key.name,
                    u32::MAX,
                    self.key.form
                ),
            )),
        }
    }

    /// A duration such as `"30s"`.
    pub(crate) fn duration(&self) -> Result<Duration> {
        let literal: LitStr = self.parse()?;
        duration::parse(&literal.value()).map_err(|message| Error::new(literal.span(), message))
    }

    /// A whole number, which may be negative.
    pub(crate) fn signed(&self) -> Result<i32> {
        // A literal has no sign: the compiler hands over `-1` as a minus and a number.
        let (minus, literal) = self.parse_with(|input: ParseStream<'_>| {
            Ok((
                input.parse::<Option<Token![-]>>()?,
                input.parse::<LitInt>()?,
            ))
        })?;

        let sign = if minus.is_some() { "-" } else { "" };
        format!("{sign}{}", literal.base10_digits())
            .parse()
            .ok()
            .filter(|_| literal.suffix().is_empty() || literal.suffix() == "i32")
            .ok_or_else(|| {
                let message = format!("`{}` must fit an i32", self.key.name);
                Error::new(literal.span(), message)
            })
    }
}
