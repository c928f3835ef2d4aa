//! Capturing the changes of a table: triggers that store an event for each changed row, in the
//! transaction of whoever changes it.
//!
//! One trigger for a statement, not for a row: however many rows it changes, one insert for each
//! queue stores their events, in the order of the rows.

pub(crate) mod feeds;
mod list;
pub(crate) mod looks;
mod sql;

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use ezq_core::{Engine as _, Error, ErrorKind, QueueName, Result};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

pub use list::{CapturedTable, Captures};

use crate::PgmqEngine;
use crate::install::{LOCK, LOCK_KEY, quoted};
use crate::{error, schema};

/// The events of a capture in the making: await it to install the triggers.
///
/// Each row that a statement inserts, updates or deletes becomes an event of the type
/// `<table>.created`, `<table>.updated` or `<table>.deleted`, whose payload is a
/// [`Change`](ezq_core::Change); a `TRUNCATE` becomes one `<table>.truncated` without rows. Outside
/// the schema `public` the type begins with the schema, too: `billing.invoices.created`. They are
/// stored by the writer's own statement: they are seen when its transaction commits, and never if it
/// rolls back. The writer needs no right on queues. Its transaction notifies nobody, so that commits do
/// not wait for each other: of the processes that consume the queue one looks for what was committed,
/// every 50 ms, by a statement that reads no table, and wakes the others.
///
/// To capture again with the same options changes nothing, takes no lock on the table, and may be
/// done by every process at its start; other options replace what was said before. A table has one
/// capture.
///
/// # What is not captured
/// An update that changes none of the captured columns; what replication applies, and what a session
/// does with `session_replication_role = replica` or disabled triggers. Partitioned tables and
/// partitions, tables that inherit, views, foreign and temporary tables are refused; a captured table
/// that is made a partition later is no longer covered, and refused when it is captured again.
///
/// A row is told as `to_jsonb` has it. What that cannot hold fails the writer's statement: of a `json`
/// column `\u0000` and numbers past the range of `numeric`, and rows beyond 255 MB. Such columns are
/// to be [left out](Self::without).
///
/// # Order
/// Events are stored in the order of the statements. They are handled in no particular order, unless
/// they have a [`key`](Self::key). Where another `AFTER` trigger of the table changes it once more,
/// that change is stored first.
///
/// # Errors
/// [`ErrorKind::Configuration`] for a table or column that does not exist,
/// [`ErrorKind::Unsupported`] for what cannot be captured, [`ErrorKind::Permission`] where the role
/// lacks a right: it needs `TRIGGER` and `SELECT` on the table, `INSERT` on the queue, and `CREATE`
/// on the schema `ezq`; [`ErrorKind::SchemaMissing`] where
/// [`manage_schema`](crate::PgmqConfig::manage_schema) is off and something is to be made, with the
/// statements to run; [`ErrorKind::Transient`] when the table was in use for longer than three
/// seconds.
///
/// # Cancel safety
/// Dropped while it runs, it has installed all or nothing.
#[derive(Debug)]
#[must_use = "nothing is captured until this is awaited"]
pub struct Capture {
    engine: PgmqEngine,
    table: String,
    source: String,
    queue: Result<Option<QueueName>>,
    name: Option<String>,
    columns: Columns,
    key: Option<String>,
}

#[derive(Debug)]
enum Columns {
    All,
    Only(Vec<String>),
    Without(Vec<String>),
}

impl Capture {
    /// The queue that gets the events. Defaults to the application's.
    pub fn queue(mut self, queue: impl TryInto<QueueName, Error = Error>) -> Self {
        self.queue = queue.try_into().map(Some);
        self
    }

    /// Broadcasts the events: every queue that is subscribed to their type gets a copy.
    pub fn broadcast(mut self) -> Self {
        self.queue = Ok(None);
        self
    }

    /// Keeps these columns and no others. The events do not tell an update that changes none of
    /// them.
    pub fn columns<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.columns = Columns::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// Leaves columns out, such as secrets: they stand nowhere in an event, and an update that
    /// changes nothing else makes none. What is kept are the other columns that the table has now: a
    /// column that is added or renamed later is left out until the table is captured again.
    pub fn without<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.columns = Columns::Without(names.into_iter().map(Into::into).collect());
        self
    }

    /// Orders the events of one row, or of what else shares the value of this column: it becomes
    /// their ordering key, by which they are handled one after another. Of an update the value after
    /// it counts. If the column is renamed or dropped, events have no key until the table is captured
    /// again.
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }

    /// What the types of the events begin with, in place of the table's name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The `source` of the events. Defaults to the application's name.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    async fn install(self) -> Result<CapturedTable> {
        let Self { engine, table, source, queue, name, columns, key } = self;
        let queue = queue?;
        let mut connection = engine.connector().connect().await?;
        let installed = async {
            let table = Table::find(&mut connection, &table, &engine).await?;
            let config = table.config(&source, queue.as_ref(), name, columns, key)?;
            match &queue {
                Some(queue) => {
                    engine.ensure_queue(queue).await?;
                    if config.get("key").is_some() {
                        engine.index_keys(queue).await;
                    }
                }
                None => ezq_core::engine::Broadcasts::ready(&engine).await?,
            }
            table.install(&mut connection, &engine, &config).await
        };
        let installed = installed.await;
        let _ = connection.close().await;
        installed
    }
}

impl IntoFuture for Capture {
    type Output = Result<CapturedTable>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.install())
    }
}

impl PgmqEngine {
    /// Captures the changes of a table, when awaited: triggers store an event in a queue for each
    /// row that is inserted, updated or deleted. The table's name is read as SQL reads it: with
    /// `"` around what has capital letters, and by the search path where it has no schema.
    pub fn capture(&self, table: impl Into<String>, queue: &QueueName) -> Capture {
        Capture {
            engine: self.clone(),
            table: table.into(),
            source: "ezq".to_owned(),
            queue: Ok(Some(queue.clone())),
            name: None,
            columns: Columns::All,
            key: None,
        }
    }

    /// The tables whose changes are captured.
    #[must_use]
    pub fn captures(&self) -> Captures<'_> {
        Captures::new(self)
    }
}

/// A table that can be captured.
struct Table {
    oid: i64,
    schema: String,
    name: String,
    columns: Vec<String>,
}

impl Table {
    async fn find(connection: &mut PgConnection, name: &str, engine: &PgmqEngine) -> Result<Self> {
        let asked = sqlx::query(sql::TABLE).bind(name).fetch_optional(&mut *connection).await;
        let row = asked.map_err(|failure| match error::is_name(&failure) {
            true => absent(name).with_source(failure),
            false => error::of(failure, engine.connector().place()),
        })?;
        let row = row.ok_or_else(|| absent(name))?;
        let table = Self {
            oid: get(&row, "oid")?,
            schema: get(&row, "schema")?,
            name: get(&row, "name")?,
            columns: get(&row, "columns")?,
        };
        let kind: String = get(&row, "kind")?;
        let what = match kind.as_str() {
            "p" => "a partitioned table: capture something else, or publish where it is written",
            "v" | "m" => "a view: capture the tables that it shows",
            "f" => "a foreign table: capture it where it is stored",
            "r" if get(&row, "is_partition")? => {
                "a partition, and what is written to the whole table \
                would go past its triggers"
            }
            "r" if get(&row, "inherits")? => {
                "part of an inheritance, in which statements on one table \
                change another"
            }
            "r" if get(&row, "is_temporary")? => "temporary: it is gone when its session ends",
            "r" if table.is_internal() => "the database's, PGMQ's or ezq's own",
            "r" => "",
            _ => "no table",
        };
        if !what.is_empty() {
            let message = format!("`{name}` cannot be captured: it is {what}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !get::<bool>(&row, "is_ours")? {
            let (role, table) = (&engine.connector().place().role, table.quoted());
            let message = format!(
                "the role `{role}` may not capture `{name}`: run `grant trigger, select on {table} to {role}`"
            );
            return Err(Error::new(ErrorKind::Permission, message));
        }
        Ok(table)
    }

    fn is_internal(&self) -> bool {
        matches!(self.schema.as_str(), "pgmq" | "ezq" | "information_schema")
            || self.schema.starts_with("pg_")
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// What the function is to know, as it is kept.
    fn config(
        &self,
        source: &str,
        queue: Option<&QueueName>,
        name: Option<String>,
        columns: Columns,
        key: Option<String>,
    ) -> Result<Value> {
        let name = name.unwrap_or_else(|| match self.schema.as_str() {
            "public" => self.name.clone(),
            schema => format!("{schema}.{}", self.name),
        });
        if name.is_empty() || source.is_empty() {
            let message = "the name and the source of captured events must not be empty";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let mut config = json!({ "name": name, "source": source });
        if let Some(queue) = queue {
            config["queue"] = queue.as_str().into();
        }
        let kept = match columns {
            Columns::All => None,
            Columns::Only(only) => Some(self.known(only)?),
            Columns::Without(without) => {
                let without = self.known(without)?;
                let kept = self.columns.iter().filter(|name| !without.contains(name));
                Some(kept.cloned().collect::<Vec<_>>())
            }
        };
        if let Some(key) = key {
            let key = self.known(vec![key])?.remove(0);
            if kept.as_ref().is_some_and(|kept| !kept.contains(&key)) {
                let message = format!("the column `{key}` cannot be the key: it is left out");
                return Err(Error::new(ErrorKind::Configuration, message));
            }
            config["key"] = key.into();
        }
        if let Some(kept) = kept {
            if kept.is_empty() {
                let message = format!("no column of {} is left to be captured", self.quoted());
                return Err(Error::new(ErrorKind::Configuration, message));
            }
            config["columns"] = kept.into();
        }
        Ok(config)
    }

    fn known(&self, names: Vec<String>) -> Result<Vec<String>> {
        match names.iter().find(|name| !self.columns.contains(name)) {
            None => Ok(names),
            Some(name) => {
                let (table, columns) = (self.quoted(), self.columns.join("`, `"));
                let message = format!("{table} has no column `{name}`; it has `{columns}`");
                Err(Error::new(ErrorKind::Configuration, message))
            }
        }
    }

    async fn install(
        &self,
        connection: &mut PgConnection,
        engine: &PgmqEngine,
        config: &Value,
    ) -> Result<CapturedTable> {
        let failed = |failure| list::failed(failure, engine);
        let text = config.to_string();
        let stands =
            |found: &list::Found| found.source == sql::body(&text) && found.triggers.len() == 4;
        let found = list::of(connection, Some(self.oid)).await.map_err(failed)?;
        if let Some(found) = found.into_iter().find(stands) {
            return Ok(found.captured);
        }
        if !engine.manages_schema() {
            let name = self.function();
            let (function, have) = (sql::function(&name, &text), Vec::new());
            let triggers = sql::triggers(&self.schema, &self.name, &name, &have);
            let message = format!(
                "{} is not captured so, and nothing is to be created: run this there as its owner\n\
                 create schema if not exists ezq;\n{function}\n{triggers}notify {};",
                self.quoted(),
                feeds::CHANNEL
            );
            return Err(Error::new(ErrorKind::SchemaMissing, message));
        }
        let mut tx = connection.begin().await.map_err(failed)?;
        let made = async {
            sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;
            sqlx::query("SET LOCAL lock_timeout = '3s'").execute(&mut *tx).await?;
            schema::create_schema(&mut tx).await?;
            // Another may have been faster.
            let found = list::of(&mut tx, Some(self.oid)).await?.pop();
            let (name, have) = match &found {
                Some(found) => (found.function.clone(), found.triggers.clone()),
                None => (self.function(), Vec::new()),
            };
            let mut statements = sql::function(&name, &text);
            statements.push_str(&sql::triggers(&self.schema, &self.name, &name, &have));
            sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *tx).await?;
            let orphans: Vec<String> = sqlx::query_scalar(sql::ORPHANS).fetch_all(&mut *tx).await?;
            for orphan in orphans {
                sqlx::raw_sql(AssertSqlSafe(sql::drop(&orphan))).execute(&mut *tx).await?;
            }
            // Who consumes its queues has to look for its changes.
            sqlx::query("SELECT pg_notify($1, '')").bind(feeds::CHANNEL).execute(&mut *tx).await?;
            let captured = list::of(&mut tx, Some(self.oid)).await?.pop();
            tx.commit().await?;
            captured.map(|found| found.captured).ok_or(sqlx::Error::RowNotFound)
        };
        made.await.map_err(failed)
    }

    /// A new name: an id of the table would not be unique after a dump was restored.
    fn function(&self) -> String {
        format!("capture_{}_{:016x}", self.oid, rand::random::<u64>())
    }
}

fn absent(name: &str) -> Error {
    let message = format!(
        "there is no table `{name}`: write it as SQL does, with `\"` around capital letters and the schema \
         before it, such as `public.\"Users\"`"
    );
    Error::new(ErrorKind::Configuration, message)
}

fn get<'r, T>(row: &'r sqlx::postgres::PgRow, column: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let unread =
        |failure| Error::new(ErrorKind::Engine, "cannot read the catalogue").with_source(failure);
    row.try_get(column).map_err(|failure: sqlx::Error| unread(failure))
}
