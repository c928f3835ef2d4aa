//! The migrations of ezq's own tables and functions.

mod list;

pub(super) use list::{MIGRATIONS, Migration};
