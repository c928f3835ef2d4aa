//! Gathers `#[event(...)]` from a type, for both derives.

use crate::{
    attributes::{Entries, Key},
    errors::Errors,
};
use syn::{Attribute, Data, DeriveInput, Error, Fields, Generics, Meta};

/// Gathers `#[event(...)]` from the item, and refuses it on fields and variants.
pub(crate) fn read(input: &DeriveInput, keys: &'static [Key], errors: &mut Errors) -> Entries {
    let mut entries = Entries::new(keys);
    for attribute in input.attrs.iter().filter(|a| is_event(a)) {
        match &attribute.meta {
            Meta::List(list) => entries.read(list.tokens.clone(), errors),
            Meta::Path(_) | Meta::NameValue(_) => {
                let message = format!("write `#[event({})]`", keys[0].form);
                errors.push(Error::new_spanned(&attribute.meta, message));
            }
        }
    }

    match &input.data {
        Data::Struct(data) => refuse_on_fields(&data.fields, errors),
        // A union is refused as a whole.
        Data::Union(_) => {}
        Data::Enum(data) => {
            for variant in &data.variants {
                refuse_inside(&variant.attrs, errors);
                refuse_on_fields(&variant.fields, errors);
            }
        }
    }
    entries
}

fn refuse_on_fields(fields: &Fields, errors: &mut Errors) {
    for field in fields {
        refuse_inside(&field.attrs, errors);
    }
}

fn refuse_inside(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes.iter().filter(|a| is_event(a)) {
        let message = "`#[event(...)]` belongs above the whole type, not inside it";
        errors.push(Error::new_spanned(attribute.path(), message));
    }
}

fn is_event(attribute: &Attribute) -> bool {
    attribute.path().is_ident("event")
}

pub(crate) fn refuse_generics(generics: &Generics, errors: &mut Errors) {
    if !generics.params.is_empty() {
        let message = "an event type takes no generic parameters: one name on the wire stands for \
                       one type, so write a type of its own for each";
        errors.push(Error::new_spanned(&generics.params, message));
    }
}
