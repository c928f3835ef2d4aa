//! Connections: dedicated ones for each purpose, and the pool for publishing and transactions.

pub(crate) mod connector;
pub(crate) mod dedicated;
pub(crate) mod measured;
pub(crate) mod plans;
pub(crate) mod pool;
pub(crate) mod pooler;
pub(crate) mod runtime;
pub(crate) mod sign;
pub(crate) mod stop;
