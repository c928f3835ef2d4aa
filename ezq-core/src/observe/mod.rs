//! What an application shows of itself: notices of events, and the status and report of each consumer.

pub(crate) mod notices;
pub(crate) mod report;
pub(crate) mod status;
