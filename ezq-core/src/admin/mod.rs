//! What operators look at and change.

pub(crate) mod dead_letters;
pub(crate) mod operating;
pub(crate) mod subscriptions;
