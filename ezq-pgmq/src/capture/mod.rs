//! Change capture: triggers that store an event for each changed row of a table, in the transaction
//! that changes it.
//!
//! The triggers fire once for a statement, not for each row. However many rows it changes, one
//! insert for each queue stores their events, in the order of the rows.
//!
//! # What a capture is made of
//!
//! A capture is a function in the schema `ezq`, and four triggers that call it after a statement
//! (insert, update, delete, truncate). The catalogue is all there is: the function's comment holds
//! the options, so it goes with a dump or with its table. The comment also has the function's
//! version: an older ezq leaves a newer function as it is.
//!
//! The function reads the transition tables. The old and the new version of a row stand at the same
//! place of the two, so no key is needed to pair them, and one insert for each queue stores the
//! events of a statement. The function names the columns that are kept, so a column that is renamed
//! or added is not kept by accident. The writer's statement fails if its queue is gone, since its
//! events would be lost.
//!
//! # Rights
//!
//! The function runs with the rights of whoever captured, under a fixed search path and fixed
//! formats. Nobody else may attach it to a table. So it must run nobody else's code:
//!
//! - A value whose type belongs to another role is told as the type writes it. `to_jsonb` would
//!   call that role's cast to `json`. Types that come with Postgres, or belong to a superuser or to
//!   whoever captured, have no such cast or a trusted one. The owners of the types decide this and
//!   not the casts that exist, because a cast could be made between the look and the conversion.
//! - What a queue's table runs (triggers, constraints) belongs to its owner, as with every insert.
//!   A superuser's rights are not lent even to that. This is checked when the table is captured,
//!   and at every statement.

mod definition;
mod list;
mod name;
mod sql;
mod table;

pub use definition::Capture;
pub use list::{CapturedTable, Captures};
