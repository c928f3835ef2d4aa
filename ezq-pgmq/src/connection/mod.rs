//! Connections: the engine's own, and those of the application's pool.

pub(crate) mod connector;
pub(crate) mod dedicated;
pub(crate) mod plans;
pub(crate) mod pool;
pub(crate) mod pooler;
pub(crate) mod runtime;
pub(crate) mod stop;
