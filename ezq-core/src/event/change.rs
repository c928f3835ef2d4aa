//! The payload of an event that a captured table makes.

use serde::{Deserialize, Serialize};

/// The payload of an event that a captured table made: one row, before and after the change.
///
/// `T` is the row: a serde type whose fields have the names of the columns that the handler needs. Wrap
/// a `Change` in an event of your own; with aliases, one handler takes several operations.
///
/// ```
/// use ezq_core::event::{Change, Operation};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct User {
///     id: i64,
///     name: String,
/// }
///
/// // #[derive(Event)] #[event(type = "users.updated", alias = "users.created")]
/// #[derive(Debug, Serialize, Deserialize)]
/// struct UserSaved(Change<User>);
///
/// let UserSaved(change) = serde_json::from_str(
///     r#"{"schema": "public", "table": "users", "operation": "updated", "transaction": 812,
///         "old": {"id": 1, "name": "ada"}, "new": {"id": 1, "name": "Ada"}, "changed": ["name"]}"#,
/// )?;
/// assert_eq!(change.operation, Operation::Updated);
/// assert!(change.has_changed("name"));
/// assert_eq!(change.new.map(|user| user.name).as_deref(), Some("Ada"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change<T> {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// What was done.
    pub operation: Operation,
    /// The row before the change; `None` after an `INSERT` or a `TRUNCATE`.
    #[serde(default = "none")]
    pub old: Option<T>,
    /// The row after the change; `None` after a `DELETE` or a `TRUNCATE`.
    #[serde(default = "none")]
    pub new: Option<T>,
    /// The names of the columns that an `UPDATE` changed; empty for other operations.
    #[serde(default)]
    pub changed: Vec<String>,
    /// The id of the transaction that made the change. Changes by one transaction share it.
    pub transaction: u64,
}

impl<T> Change<T> {
    /// Whether an `UPDATE` changed the column.
    #[must_use]
    pub fn has_changed(&self, column: &str) -> bool {
        self.changed.iter().any(|changed| changed == column)
    }

    /// The row after the change, or else before it.
    #[must_use]
    pub fn row(&self) -> Option<&T> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// What was done to a captured table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Operation {
    /// A row was inserted.
    Created,
    /// A row was updated.
    Updated,
    /// A row was deleted.
    Deleted,
    /// All rows were removed at once, with one event for all of them.
    Truncated,
}

// `#[serde(default)]` would demand a `Default` of `T`.
fn none<T>() -> Option<T> {
    None
}
