//! What a captured change of a table carries.

use serde::{Deserialize, Serialize};

/// The payload of an event that a captured table made: one row, before and after.
///
/// `T` is the row as the handler needs it: any serde type whose fields are named as columns. An event
/// of one's own wraps it; aliases let one handler take several operations.
///
/// ```
/// use ezq_core::{Change, Operation};
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
    /// The row as it was; `None` for one that was created, and for `TRUNCATE`.
    #[serde(default = "none")]
    pub old: Option<T>,
    /// The row as it is; `None` for one that was deleted, and for `TRUNCATE`.
    #[serde(default = "none")]
    pub new: Option<T>,
    /// The columns that an update changed, by name; empty for everything else.
    #[serde(default)]
    pub changed: Vec<String>,
    /// The id of the writer's transaction in the database: what one transaction did shares it.
    pub transaction: u64,
}

impl<T> Change<T> {
    /// Whether an update changed a column.
    #[must_use]
    pub fn has_changed(&self, column: &str) -> bool {
        self.changed.iter().any(|changed| changed == column)
    }

    /// The row as it is, or as it last was.
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
    /// All rows were removed at once, and are not told one by one.
    Truncated,
}

// Without asking that `T` has a default.
fn none<T>() -> Option<T> {
    None
}
