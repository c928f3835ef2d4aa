//! Splits an attribute's arguments into keys and values.
//!
//! It knows how `key = value` is written and which keys exist, not what they mean. Each argument is
//! read on its own, so that a mistake in one does not hide a mistake in another.

mod entries;
mod entry;

pub(crate) use entries::{Entries, private};
pub(crate) use entry::{Entry, Key};

#[cfg(test)]
mod tests;
