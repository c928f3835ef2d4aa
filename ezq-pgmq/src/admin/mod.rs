//! What operators ask of a queue: dead letters, histories, counts, blocked keys, pauses, consumers,
//! subscriptions, schedules; and what they do to its events, with an audit trail.

pub(crate) mod acting;
pub(crate) mod audit;
pub(crate) mod blocked_keys;
pub(crate) mod browse;
pub(crate) mod cancellations;
mod copies;
pub(crate) mod dead_letters;
pub(crate) mod failures;
mod filter;
pub(crate) mod follow;
pub(crate) mod history;
pub(crate) mod operations;
pub(crate) mod overview;
pub(crate) mod pauses;
pub(crate) mod presence;
pub(crate) mod recent;
pub(crate) mod schedules;
pub(crate) mod selection;
pub(crate) mod subscriptions;
pub(crate) mod upkeep;
