//! Capturing the changes of a table: triggers that store an event for each changed row, in the
//! transaction of whoever changes it.
//!
//! One trigger for a statement, not for a row: however many rows it changes, one insert for each
//! queue stores their events, in the order of the rows.

mod list;
mod sql;
mod table;

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use ezq_core::{Engine as _, Error, ErrorKind, QueueName, Result};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

pub use list::{CapturedTable, Captures};

use crate::connection::connector::PINNED;
use crate::engine::PgmqEngine;
use table::Table;

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
/// What a newer ezq captured with the same options is left as it is. What an older one captured is
/// brought up to date, or with `manage_schema(false)` left as it is, with a warning:
/// [`CapturedTable::upgrade`] says what to run. To capture again with the same options changes
/// nothing, takes no lock on the table, and may be done by every process at its start; other options
/// replace what was said before. A table has one capture.
///
/// # What is not captured
/// An update that changes none of the captured columns; what replication applies, and what a session
/// does with `session_replication_role = replica` or disabled triggers. Partitioned tables and
/// partitions, tables that inherit, views, foreign and temporary tables are refused; a captured table
/// that is made a partition, or gets children, later is no longer covered in full: this is
/// [listed](CapturedTable::uncovered), warned of in the log of consumers, and refused when the table is
/// captured again.
///
/// A row is told as `to_jsonb` has it, whatever the writer's session says of formats. Of a type that
/// belongs to another role than the one that captures, and to no superuser, a cast to `json` is not
/// used, since it is that role's code: the value is told as text, an array as an array of texts, and a
/// composite value that holds such a one as text.
///
/// What `jsonb` cannot hold fails the writer's statement: of a `json` column `\u0000` and numbers past
/// the range of `numeric`, and rows beyond 255 MB. Such columns are to be [left out](Self::without).
///
/// # Order
/// Events are stored in the order of the statements. They are handled in no particular order, unless
/// they have a [`key`](Self::key). Where another `AFTER` trigger of the table changes it once more,
/// that change is stored first.
///
/// # Rights
/// The writer needs no right on queues: the triggers store events with the rights of the role that
/// captured, and run nobody else's code with them but that of the queue's table (its owner's triggers
/// and constraints), as any publish of that role does. A superuser's rights are not lent even so: where
/// a queue's table, one of its triggers, or the subscriptions belong to another role that is no
/// superuser, a superuser cannot capture.
///
/// # Errors
/// [`ErrorKind::Configuration`] for a table or column that does not exist, and for other options than
/// those of a newer ezq that captured it; [`ErrorKind::Unsupported`] for what cannot be captured;
/// [`ErrorKind::Permission`] where the role lacks a right (it needs `TRIGGER` and `SELECT` on the
/// table, `INSERT` on the queue, and `CREATE` on the schema `ezq`), and to a superuser whose rights
/// would be lent; [`ErrorKind::SchemaMissing`] where
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
        let Self {
            engine,
            table,
            source,
            queue,
            name,
            columns,
            key,
        } = self;
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
            table
                .refuse_lending(&mut connection, queue.as_ref(), &engine)
                .await?;
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

/// The table of a name, along the search path that the role has: ezq's own is another one.
async fn resolved(connection: &mut PgConnection, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::raw_sql("RESET search_path")
        .execute(&mut *connection)
        .await?;
    let oid = sqlx::query_scalar("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid::bigint")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql(PINNED).execute(connection).await?;
    Ok(oid)
}

fn absent(name: &str) -> Error {
    let message = format!(
        "there is no table `{name}`: write it as SQL does, with `\"` around capital letters and the schema \
         before it, such as `public.\"Users\"`"
    );
    Error::new(ErrorKind::Configuration, message)
}
