//! What can be seen of an application: notices and health.

pub(crate) mod health;
pub(crate) mod notices;
