//! A capture that is being defined.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use ezq_core::Result;
use ezq_core::engine::{AuditAction, Engine as _, Signature};
use ezq_core::message::{IntoQueueName, QueueName};
use sqlx::Connection as _;

use super::list::{CapturedTable, Captures};
use super::table::{Columns, Table};
use crate::engine::PgmqEngine;

/// A capture that is being defined: await it to install the triggers.
///
/// Each row that a statement inserts, updates or deletes becomes an event of the type
/// `<table>.created`, `<table>.updated` or `<table>.deleted`, whose payload is a
/// [`Change`](ezq_core::event::Change). A `TRUNCATE` becomes one `<table>.truncated` without rows.
/// Outside the schema `public` the type begins with the schema: `billing.invoices.created`.
///
/// The writer's own statement stores the events. They become visible when its transaction commits,
/// and never if it rolls back. The writer needs no right on queues. Its transaction does not
/// notify, so that commits do not wait for each other. In its place one of the processes that
/// consume the queue polls every 50 ms for what was committed, by a statement that reads no table,
/// and wakes the others.
///
/// A table has one capture. Capturing it again with the same options changes nothing and takes no
/// lock on the table, so every process may do it at its start. Other options replace the earlier
/// ones. What is changed is recorded in the [audit trail](ezq_core::app::App::audit). A capture by another version of ezq with the same options is treated so:
/// - by a newer one, it is left as it is
/// - by an older one, it is brought up to date; with `manage_schema(false)` it is left as it is,
///   with a warning, and [`CapturedTable::upgrade`] holds what to run
///
/// # What is not captured
/// - an update that changes none of the captured columns
/// - what replication applies, and what a session does with `session_replication_role = replica` or
///   disabled triggers
/// - partitioned tables and partitions, tables that inherit, views, foreign and temporary tables:
///   these are refused
///
/// If a captured table becomes a partition, or gets children, later, it is no longer covered in
/// full. Such tables are [listed](CapturedTable::uncovered), consumers log a warning, and capturing
/// the table again is refused.
///
/// # Values
/// A row is converted by `to_jsonb`, whatever formats the writer's session sets. A cast to `json`
/// is code of the type's owner. It is not used for types that belong to another role than the one
/// that captures, unless that role is a superuser. Their values become text, an array becomes an
/// array of texts, and a composite value that holds one becomes text.
///
/// What `jsonb` cannot hold fails the writer's statement: `\u0000` and numbers beyond `numeric` in
/// a `json` column, and rows beyond 255 MB. [Leave out](Self::without) such columns.
///
/// # Order
/// Events are stored in the order of the statements. They are handled in no particular order,
/// unless they have a [`key`](Self::key). If another `AFTER` trigger of the table changes it again,
/// that change is stored first.
///
/// # Rights
/// The triggers store events with the rights of the role that captured the table. With these rights
/// they run no code of other roles except that of the queue's table (its owner's triggers and
/// constraints), as every publish does. A superuser's rights are never lent like that: a superuser
/// cannot capture where a queue's table, one of its triggers, or the subscriptions belong to a role
/// that is not a superuser.
///
/// # Errors
/// - [`Configuration`](ezq_core::ErrorKind::Configuration) for a table or column that does not exist,
///   and for options that differ from those of a newer ezq
/// - [`Unsupported`](ezq_core::ErrorKind::Unsupported) for what cannot be captured
/// - [`Permission`](ezq_core::ErrorKind::Permission) where the role lacks a right: it needs `TRIGGER`
///   and `SELECT` on the table, `INSERT` on the queue, and `CREATE` on the schema `ezq`. Also for a
///   superuser whose rights would be lent
/// - [`SchemaMissing`](ezq_core::ErrorKind::SchemaMissing) where
///   [`manage_schema`](crate::PgmqConfig::manage_schema) is off and something has to be created, with
///   the statements to run
/// - [`Transient`](ezq_core::ErrorKind::Transient) when the table was in use for longer than three
///   seconds
///
/// # Cancel safety
/// If the future is dropped, all is installed or nothing.
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
    signature: Signature,
}

impl Capture {
    /// The queue that gets the events. Defaults to the application's.
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name().map(Some);
        self
    }

    /// Broadcasts the events: every queue that is subscribed to their type gets a copy.
    pub fn broadcast(mut self) -> Self {
        self.queue = Ok(None);
        self
    }

    /// Keeps these columns and no others. An update that changes none of them makes no event.
    pub fn columns<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.columns = Columns::Only(names.into_iter().map(Into::into).collect());
        self
    }

    /// Leaves out columns, such as secrets. They appear in no event, and an update that changes
    /// nothing else makes no event. The other columns that the table has now are kept. A column
    /// that is added or renamed later is left out until the table is captured again.
    pub fn without<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.columns = Columns::Without(names.into_iter().map(Into::into).collect());
        self
    }

    /// Orders the events of all rows that share the value of this column. The value becomes their
    /// ordering key, and events of one key are handled one after another. An update has the new
    /// row's key. If the column is renamed or dropped, events have no key until the table is
    /// captured again.
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

    /// Who captures the table. Defaults to the application's name.
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.signature.reason = Some(reason.into());
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
            signature,
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
            let entry = table.entry(AuditAction::Capture, signature, queue);
            table
                .install(&mut connection, &engine, &config, entry)
                .await
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
    /// row that is inserted, updated or deleted.
    ///
    /// The table's name is written as in SQL: quoted with `"` if it has capital letters, and found
    /// by the search path if it has no schema.
    pub fn capture(&self, table: impl Into<String>, queue: impl IntoQueueName) -> Capture {
        Capture {
            engine: self.clone(),
            table: table.into(),
            source: "ezq".to_owned(),
            queue: queue.into_queue_name().map(Some),
            name: None,
            columns: Columns::All,
            key: None,
            // The engine knows no application: whoever does sets its name.
            signature: Signature::new(&*self.place().role),
        }
    }

    /// The tables whose changes are captured.
    #[must_use]
    pub fn captures(&self) -> Captures<'_> {
        Captures::new(self)
    }
}
