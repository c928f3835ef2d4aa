//! Checks what stands between the parentheses of `#[event(...)]`.

use super::key::{self, EventKey};
use crate::{
    attributes::{Entries, Entry, Key},
    errors::Errors,
    queue_name,
};
use syn::{DeriveInput, Error, LitStr, Path, Result, ext::IdentExt as _};

pub(super) const KEYS: &[Key] = &[
    Key::once("type", "type = \"user.created\""),
    Key::once("version", "version = 2"),
    Key::once("queue", "queue = \"orders\""),
    Key::once("key", "key = \"customer_id\""),
    Key::once("codec", "codec = \"raw\""),
    Key::once("from", "from = UserCreatedV1"),
    Key::repeatable("alias", "alias = \"UserCreated\""),
    Key::once("crate", "crate = path::to::ezq"),
];

pub(super) struct Options {
    pub(super) name: LitStr,
    pub(super) version: u32,
    pub(super) aliases: Vec<LitStr>,
    pub(super) queue: Option<LitStr>,
    pub(super) key: Option<EventKey>,
    pub(super) codec: Option<LitStr>,
    /// The event's shape at the version just before.
    pub(super) from: Option<Path>,
}

impl Options {
    pub(super) fn defaults(input: &DeriveInput) -> Self {
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

pub(super) fn validate(input: &DeriveInput, entries: &Entries, errors: &mut Errors) -> Options {
    let mut options = Options::defaults(input);
    if let Some(name) = entries.value("type", type_name, errors) {
        options.name = name;
    }
    options.aliases = aliases(entries, &options.name, errors);

    if let Some(version) = entries.value("version", Entry::positive, errors) {
        options.version = version;
    }
    options.queue = entries.value("queue", queue_name::parse, errors);
    options.from = entries.value("from", Entry::parse::<Path>, errors);
    refuse_from_without_version(entries, errors);

    options.codec = entries.value("codec", codec_name, errors);
    options.key = entries.value("key", |entry| key::resolve(entry, input), errors);
    options
}

fn aliases(entries: &Entries, name: &LitStr, errors: &mut Errors) -> Vec<LitStr> {
    let mut aliases: Vec<LitStr> = Vec::new();
    for entry in entries.all("alias") {
        let Some(alias) = errors.take(type_name(entry)) else {
            continue;
        };
        let text = alias.value();
        if text == name.value() {
            let message = "this alias is the type's own name: drop it";
            errors.push(Error::new(alias.span(), message));
        } else if aliases.iter().any(|other| other.value() == text) {
            let message = "this alias is given twice: keep one of them";
            errors.push(Error::new(alias.span(), message));
        } else {
            aliases.push(alias);
        }
    }
    aliases
}

/// `version = 1` beside `from` is left to rustc: the versions of both types are compared when the
/// expansion is compiled.
fn refuse_from_without_version(entries: &Entries, errors: &mut Errors) {
    if let Some(entry) = entries.find("from")
        && entries.find("version").is_none()
    {
        let message = "an event that comes `from` an older one has a `version` of at least 2: write \
                       `version = 2` beside it";
        errors.push(Error::new(entry.span, message));
    }
}

/// Spaces within are allowed: a captured table may have them in its name.
fn type_name(entry: &Entry) -> Result<LitStr> {
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

fn codec_name(entry: &Entry) -> Result<LitStr> {
    let literal = entry.text()?;
    if literal.value().contains(char::is_whitespace) {
        let message = format!("`{}` must not contain white space", entry.key.name);
        return Err(Error::new(literal.span(), message));
    }
    Ok(literal)
}
