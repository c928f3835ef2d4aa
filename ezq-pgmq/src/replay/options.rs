//! What a replay selects, and where its copies go. Options identify a replay under its name.

use chrono::{DateTime, Utc};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use super::row::ReplayRow;
use super::sql;

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) queue: QueueName,
    pub(super) target: QueueName,
    pub(super) after: Option<DateTime<Utc>>,
    pub(super) before: Option<DateTime<Utc>>,
    pub(super) types: Vec<Pattern>,
    pub(super) data: Option<Value>,
}

impl Options {
    /// The options that identify this replay.
    pub(super) fn definition(&self) -> Value {
        json!({
            "queue": self.queue.as_str(), "target": self.target.as_str(), "data": self.data,
            "after": self.after, "before": self.before,
            "types": self.types.iter().map(Pattern::as_str).collect::<Vec<_>>(),
        })
    }

    pub(super) fn check(&self, name: &str, begun: &Value) -> Result<()> {
        let mine = self.definition();
        if *begun == mine {
            return Ok(());
        }
        let message = format!(
            "the replay `{name}` was begun with other options ({begun}, not {mine}): give the \
             same options, or another name"
        );
        Err(Error::new(ErrorKind::Configuration, message))
    }

    /// Binds `$1` to `$8` of a statement.
    pub(super) fn bind<'q>(
        &self,
        statement: String,
        begun: &ReplayRow,
    ) -> Query<'q, Postgres, PgArguments> {
        let types: Vec<String> = self.types.iter().map(sql::regex).collect();
        sqlx::query(AssertSqlSafe(statement))
            .bind(begun.position)
            .bind(begun.last_id)
            .bind(begun.at)
            .bind(self.after)
            .bind(self.before)
            .bind((!types.is_empty()).then_some(types))
            .bind(self.data.as_ref().map(Value::to_string))
            .bind(begun.open.clone())
    }
}
