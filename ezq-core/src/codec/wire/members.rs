//! A JSON object as its members, whose values stay text. Nothing here knows an event.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

/// How deep JSON text is nested; 0 for a scalar.
pub(crate) fn nesting(json: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    let mut in_text = false;
    let mut escaped = false;

    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Up to this many names are compared with each other, which allocates nothing.
pub(super) const FEW: usize = 32;

/// The first name that occurs a second time. A hostile body may have a hundred thousand names, so
/// they are not all compared with each other.
pub(super) fn repeated<N: Copy + Eq + Hash>(
    mut names: impl ExactSizeIterator<Item = N> + Clone,
) -> Option<N> {
    if names.len() > FEW {
        let mut before = HashSet::with_capacity(names.len());
        return names.find(|name| !before.insert(*name));
    }

    let all = names.clone();
    names
        .enumerate()
        .find(|(place, name)| all.clone().take(*place).any(|before| before == *name))
        .map(|(_, name)| name)
}

/// The members of a JSON object in their order, each value as its JSON text.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The last member of a name, which is the one that other JSON readers take.
    pub(super) fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, raw)| *raw)
    }

    /// A member that is text. `null` counts as absent, as CloudEvents demands.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(raw) = self.find(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get())
            .map_err(|error| undecodable(format!("`{name}` is not text").into()).with_source(error))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

/// The name of a member, borrowed unless it has an escape.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Text)
    }
}

/// The error for a body that is not an event.
pub(super) fn undecodable(why: Cow<'static, str>) -> Error {
    Error::new(ErrorKind::Decode, why)
}

/// Text as a JSON string.
pub(super) fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text)
        .map_err(|error| Error::new(ErrorKind::Encode, "text cannot be quoted").with_source(error))
}
