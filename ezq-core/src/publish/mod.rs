//! Publishing: events on their way into the store.

pub(crate) mod all;
pub(crate) mod broadcast;
pub(crate) mod builder;
pub(crate) mod engines;
pub(crate) mod publisher;
pub(crate) mod routing;
pub(crate) mod services;
pub(crate) mod transaction;
