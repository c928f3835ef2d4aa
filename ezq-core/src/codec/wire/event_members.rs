//! The members of a body, read in one pass, each as what a CloudEvent may have there.
//!
//! Fast path. To read each member as its JSON text, and the texts once more for their values, takes 3,300
//! instructions more (benchmark case `dispatch`). The flat form is read once more: as its members' texts,
//! which become its data.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::members::{Name, repeated};

/// The members of a body by what they are in a CloudEvent. Of a name that comes twice, the last.
#[derive(Default)]
pub(super) struct EventMembers<'a> {
    pub(super) specversion: Option<Value<'a>>,
    pub(super) id: Option<Value<'a>>,
    pub(super) source: Option<Value<'a>>,
    pub(super) event_type: Option<Value<'a>>,
    pub(super) time: Option<Value<'a>>,
    pub(super) subject: Option<Value<'a>>,
    pub(super) datacontenttype: Option<Value<'a>>,
    pub(super) dataschema: Option<Value<'a>>,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) data_base64: Option<Value<'a>>,
    /// The type in the flat form.
    pub(super) flat_type: Option<Value<'a>>,
    /// All others, in their order.
    pub(super) extensions: Vec<(Cow<'a, str>, Value<'a>)>,
    /// One of the names above that came twice.
    repeated: Option<Cow<'a, str>>,
}

/// The value of a member. It borrows from the body, unless it has an escape.
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i32),
    Text(Cow<'a, str>),
    /// No attribute can have it.
    Other,
}

impl<'a> EventMembers<'a> {
    /// Reads them from JSON text.
    pub(super) fn parse(body: &'a str) -> Result<Self, serde_json::Error> {
        let mut members = Self::default();
        members.fill(body)?;
        Ok(members)
    }

    /// Reads them from JSON text into members that are empty.
    pub(super) fn fill(&mut self, body: &'a str) -> Result<(), serde_json::Error> {
        let mut from = serde_json::Deserializer::from_str(body);
        from.deserialize_map(Filling(self))?;
        from.end()
    }

    /// Reads them from a reader of JSON.
    pub(super) fn read<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let mut members = Self::default();
        from.deserialize_map(Filling(&mut members))?;
        Ok(members)
    }

    /// How many members there are, those that are `null` or unknown included. Of a name that comes twice,
    /// one may count.
    pub(super) fn count(&self) -> usize {
        let attributes = [
            &self.specversion,
            &self.id,
            &self.source,
            &self.event_type,
            &self.time,
            &self.subject,
            &self.datacontenttype,
            &self.dataschema,
            &self.data_base64,
            &self.flat_type,
        ];
        let named = attributes.iter().filter(|member| member.is_some()).count();
        named + usize::from(self.data.is_some()) + self.extensions.len()
    }

    /// A name that occurs twice. Two readers could take different values for it.
    pub(super) fn twice(&self) -> Option<&str> {
        let extensions = self.extensions.iter().map(|(name, _)| &**name);
        self.repeated.as_deref().or_else(|| repeated(extensions))
    }
}

/// Fills members in where they are: to move them takes 350 instructions.
struct Filling<'m, 'de>(&'m mut EventMembers<'de>);

impl<'de> Visitor<'de> for Filling<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let members = self.0;
        while let Some(Name(name)) = map.next_key()? {
            if name == "data" {
                if members.data.replace(map.next_value()?).is_some() {
                    members.repeated.get_or_insert(name);
                }
                continue;
            }

            let value = map.next_value()?;
            let member = match &*name {
                "specversion" => &mut members.specversion,
                "id" => &mut members.id,
                "source" => &mut members.source,
                "type" => &mut members.event_type,
                "time" => &mut members.time,
                "subject" => &mut members.subject,
                "datacontenttype" => &mut members.datacontenttype,
                "dataschema" => &mut members.dataschema,
                "data_base64" => &mut members.data_base64,
                "_type" => &mut members.flat_type,
                _ => {
                    members.extensions.push((name, value));
                    continue;
                }
            };
            if member.replace(value).is_some() {
                members.repeated.get_or_insert(name);
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Value::Boolean(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(i32::try_from(value).map_or(Value::Other, Value::Integer))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(i32::try_from(value).map_or(Value::Other, Value::Integer))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                IgnoredAny.visit_seq(seq).map(|_| Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                IgnoredAny.visit_map(map).map(|_| Value::Other)
            }
        }
        from.deserialize_any(Any)
    }
}
