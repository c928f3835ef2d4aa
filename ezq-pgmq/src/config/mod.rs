//! How the engine connects, and what it may do there.

mod environment;
mod options;
mod parameters;
mod place;
pub(crate) mod tls;
mod url;

pub use options::PgmqConfig;
pub(crate) use options::{MOST_PARTITIONS, OptionsFrom};
pub(crate) use parameters::Target;
pub(crate) use place::Place;
