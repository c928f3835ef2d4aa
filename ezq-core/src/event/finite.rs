//! Numbers that JSON cannot write: NaN and the infinities.
//!
//! serde_json writes them as `null`, so an event with one could be published and never be read. The
//! JSON text does not tell such a `null` from an absent value; only the value itself does. So a value
//! whose text contains `null` is serialized a second time, by a serializer that only looks for these
//! numbers. All other values cost nothing more.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

/// Writes the payload of an event as JSON, and refuses numbers that JSON cannot write.
pub(crate) fn to_json<T: Serialize + ?Sized>(event_type: &str, value: &T) -> Result<Box<RawValue>> {
    let refused = || {
        let message = format!("`{event_type}` cannot be written as JSON");
        Error::new(ErrorKind::Encode, message)
    };

    let raw = serde_json::value::to_raw_value(value).map_err(|e| refused().with_source(e))?;
    // A `null` inside a string only costs a walk that finds nothing.
    if raw.get().contains("null")
        && let Err(Found::NotFinite(place)) = value.serialize(Walk)
    {
        return Err(refused().with_source(NotFinite(place)));
    }
    Ok(raw)
}

/// The error for such a number, with its place in the value.
#[derive(Debug)]
struct NotFinite(String);

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &*self.0 {
            "" => "the value".to_owned(),
            place => format!("`{}`", place.trim_start_matches('.')),
        };
        write!(
            f,
            "{place} is NaN or infinite, and JSON has no such numbers: use an `Option` or text"
        )
    }
}

impl std::error::Error for NotFinite {}

/// Why the walk ended early.
#[derive(Debug)]
enum Found {
    /// A number that is not finite, at this place.
    NotFinite(String),
    /// An error of the value itself. It has none: it was written without one before.
    Other,
}

impl Found {
    fn below(self, step: impl fmt::Display) -> Self {
        match self {
            Self::NotFinite(place) => Self::NotFinite(format!("{step}{place}")),
            Self::Other => Self::Other,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value cannot be walked")
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }
}

/// A serializer that writes nothing and fails at the first number that is not finite.
#[derive(Clone, Copy)]
struct Walk;

/// The items of a list, counted to name the place of one.
struct Items(usize);

macro_rules! nothing_in {
    ($($method:ident: $ty:ty),+) => {$(
        fn $method(self, _: $ty) -> Result<(), Found> {
            Ok(())
        }
    )+};
}

impl Serializer for Walk {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    nothing_in! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_i128: i128, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_u128: u128, serialize_char: char,
        serialize_str: &str, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    }

    fn serialize_f32(self, number: f32) -> Result<(), Found> {
        self.serialize_f64(f64::from(number))
    }

    fn serialize_f64(self, number: f64) -> Result<(), Found> {
        if number.is_finite() {
            Ok(())
        } else {
            Err(Found::NotFinite(String::new()))
        }
    }

    fn serialize_none(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &str, _: u32, _: &str) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &str,
        value: &T,
    ) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &str,
        _: u32,
        variant: &str,
        value: &T,
    ) -> Result<(), Found> {
        value
            .serialize(self)
            .map_err(|found| found.below(format_args!(".{variant}")))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items, Found> {
        Ok(Items(0))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items, Found> {
        Ok(Items(0))
    }

    fn serialize_tuple_struct(self, _: &str, _: usize) -> Result<Items, Found> {
        Ok(Items(0))
    }

    fn serialize_tuple_variant(self, _: &str, _: u32, _: &str, _: usize) -> Result<Items, Found> {
        Ok(Items(0))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_struct(self, _: &str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &str, _: u32, _: &str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), Found> {
        Ok(())
    }
}

impl Items {
    fn walk<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        let place = self.0;
        self.0 = place.saturating_add(1);
        value
            .serialize(Walk)
            .map_err(|found| found.below(format_args!("[{place}]")))
    }
}

macro_rules! lists {
    ($($list:ident: $method:ident),+) => {$(
        impl ser::$list for Items {
            type Ok = ();
            type Error = Found;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
                self.walk(value)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        }
    )+};
}
lists! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

macro_rules! structs {
    ($($list:ident),+) => {$(
        impl ser::$list for Walk {
            type Ok = ();
            type Error = Found;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Found> {
                value.serialize(*self).map_err(|found| found.below(format_args!(".{name}")))
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        }
    )+};
}
structs! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Walk {
    type Ok = ();
    type Error = Found;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Found> {
        // serde_json itself refuses keys that are not finite.
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        value.serialize(*self).map_err(|found| found.below("[..]"))
    }

    fn end(self) -> Result<(), Found> {
        Ok(())
    }
}
