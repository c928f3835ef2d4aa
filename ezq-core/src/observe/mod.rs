//! What can be seen of an application: notices and health.

pub(crate) mod notices;
pub(crate) mod report;
pub(crate) mod status;
