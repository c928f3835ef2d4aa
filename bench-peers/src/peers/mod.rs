//! The libraries, each set up as its own documentation recommends for throughput.

pub(crate) mod apalis;
pub(crate) mod awa;
pub(crate) mod ezq;
pub(crate) mod graphile;
pub(crate) mod pgmq;
pub(crate) mod river;
pub(crate) mod sqlxmq;

/// The queue of the libraries that name theirs.
const QUEUE: &str = "jobs";
