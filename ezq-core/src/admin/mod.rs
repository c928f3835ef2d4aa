//! What operators look at and change.

pub(crate) mod dead_letters;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod schedules;
pub(crate) mod subscriptions;
