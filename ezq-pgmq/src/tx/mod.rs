//! `Tx`: the transaction in which a handler's writes, its events and its acknowledgement commit
//! together.
//!
//! The transaction has a name, in two settings that last as long as it does. By `application_name`
//! its backend is found when a statement must be stopped. By `ezq.unit` the fence knows that it
//! still is the same transaction.

mod context;
mod extractor;
mod faults;
mod fence;
mod unit;

pub use extractor::Tx;
pub(crate) use unit::PgUnit;
