//! The screens: a file for each, with the handlers of its pages and of its actions.
//!
//! Each handler that shows takes a [`Frame`](crate::frame::Frame), and each that changes something an
//! [`Operator`](crate::rights::Operator): neither exists for a request without the right.

pub(crate) mod acting;
pub(crate) mod audit;
pub(crate) mod bulk;
pub(crate) mod captures;
pub(crate) mod catalogue;
pub(crate) mod consumers;
pub(crate) mod dead_letters;
pub(crate) mod errors;
pub(crate) mod filter;
pub(crate) mod health;
pub(crate) mod links;
pub(crate) mod message;
pub(crate) mod messages;
pub(crate) mod operations;
pub(crate) mod overview;
pub(crate) mod queue;
pub(crate) mod queues;
pub(crate) mod replays;
pub(crate) mod schedules;
pub(crate) mod subscriptions;
