//! The table to be captured: what is accepted, and how its function and triggers are installed.

use std::fmt::Write as _;

use chrono::DateTime;
use ezq_core::engine::{AuditAction, AuditEntry, Signature};
use ezq_core::event::Envelope;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::list::{CapturedTable, Comparison};
use super::name::{absent, resolved};
use super::{list, sql};
use crate::admin::audit;
use crate::engine::PgmqEngine;
use crate::error::missing;
use crate::message::encoding::Encoding;
use crate::schema::lock::{LOCK, LOCK_KEY};
use crate::sql::{PIN, quoted};
use crate::wake::feeds;
use crate::{error, schema};

/// Which columns of a table are kept.
#[derive(Debug)]
pub(super) enum Columns {
    All,
    Only(Vec<String>),
    Without(Vec<String>),
}

/// A table that can be captured.
pub(super) struct Table {
    oid: i64,
    schema: String,
    name: String,
    columns: Vec<String>,
}

impl Table {
    pub(super) async fn find(
        connection: &mut PgConnection,
        name: &str,
        engine: &PgmqEngine,
    ) -> Result<Self> {
        let asked = async {
            let oid = resolved(connection, name, engine.encoding()).await?;
            sqlx::query(sql::TABLE)
                .bind(oid)
                .fetch_optional(&mut *connection)
                .await
        };

        let row = asked
            .await
            .map_err(|failure| match error::is_name(&failure) {
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
                "a partition, and what is written to the whole table would go past its triggers"
            }
            "r" if get(&row, "inherits")? => {
                "part of an inheritance, in which statements on one table change another"
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
            let role = &engine.connector().place().role;
            let table = table.quoted();
            let message = format!(
                "the role `{role}` may not capture `{name}`: run `grant trigger, select on \
                 {table} to {role}`"
            );
            return Err(Error::new(ErrorKind::Permission, message));
        }

        Ok(table)
    }

    fn is_internal(&self) -> bool {
        // Events about these tables would make further events.
        matches!(self.schema.as_str(), "pgmq" | "ezq" | "information_schema")
            || self.schema.starts_with("pg_")
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// Refuses to lend a superuser's rights: what the function inserts into or reads may run code
    /// of its owner with the rights of the capturing role.
    pub(super) async fn refuse_lending(
        &self,
        connection: &mut PgConnection,
        queue: Option<&QueueName>,
        engine: &PgmqEngine,
    ) -> Result<()> {
        let table = queue.map_or_else(|| "ezq.subscriptions".to_owned(), crate::sql::table);
        let lent = sqlx::query_scalar::<_, String>(sql::LENT)
            .bind(&table)
            .bind(queue.is_none())
            .fetch_optional(connection)
            .await;

        let Some(role) = lent.map_err(|failure| list::failed(failure, engine))? else {
            return Ok(());
        };

        let message = format!(
            "{} is not captured as a superuser: `{table}` runs code of the role `{role}`, which \
             owns it, a trigger on it or what is asked for its rows, with the rights of who \
             captures. Connect as `{role}`, or as another role that is no superuser, to capture \
             it",
            self.quoted()
        );
        Err(Error::new(ErrorKind::Permission, message))
    }

    /// The options of the capture, as the function's comment keeps them.
    pub(super) fn config(
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
        if name.is_empty() {
            let message = "the name of captured events must not be empty";
            return Err(Error::new(ErrorKind::Configuration, message));
        }

        // Built as the triggers will build them: an invalid name or source would make every event
        // undecodable.
        Envelope::builder(format!("{name}.created"), source).build().map_err(|why| {
            let message = format!(
                "captured events cannot have the name `{}` and the source `{}`, which `named` and \
                 `source` change: {why}",
                name.escape_debug(),
                source.escape_debug()
            );
            Error::new(ErrorKind::Configuration, message)
        })?;
        let mut config = json!({ "name": name, "source": source });
        if let Some(queue) = queue {
            config["queue"] = queue.as_str().into();
        }

        // Always as the columns that are kept: one that is added later stays out.
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
                let table = self.quoted();
                let columns = self.columns.join("`, `");
                let message = format!("{table} has no column `{name}`; it has `{columns}`");
                Err(Error::new(ErrorKind::Configuration, message))
            }
        }
    }

    /// Captures the table as the configuration says, unless it is captured so already.
    pub(super) async fn install(
        &self,
        connection: &mut PgConnection,
        engine: &PgmqEngine,
        config: &Value,
        entry: AuditEntry,
    ) -> Result<CapturedTable> {
        let found = list::of(connection, Some(self.oid)).await;
        let found = found.map_err(|failure| list::failed(failure, engine))?;
        let found = found.into_iter().next();
        let comparison = found
            .as_ref()
            .map_or(Comparison::Absent, |found| found.compare(config));

        match comparison {
            Comparison::Current => return found.map(|found| found.captured).ok_or_else(gone),
            Comparison::Newer => return Err(self.newer()),
            Comparison::Older if !engine.manages_schema() => {
                return self.left_as_it_is(config, found.ok_or_else(gone)?);
            }
            Comparison::Absent | Comparison::Different if !engine.manages_schema() => {
                let message = format!(
                    "{} is not captured with these options, and `manage_schema` is off: run this \
                     there as its owner\n\
                     {PIN}create schema if not exists ezq;\n{}",
                    self.quoted(),
                    self.statements(config, found.as_ref())
                );
                return Err(Error::new(ErrorKind::SchemaMissing, message));
            }
            Comparison::Absent | Comparison::Different | Comparison::Older => {}
        }

        let encoding = engine.encoding();
        let mut replaced = self.replace(connection, config, &entry, encoding).await;
        if replaced.as_ref().is_err_and(missing::is_trail_behind) {
            engine.ready_to_record().await?;
            replaced = self.replace(connection, config, &entry, encoding).await;
        }
        let found = replaced
            .map_err(|failure| list::failed(failure, engine))?
            .ok_or_else(gone)?;
        match found.compare(config) {
            Comparison::Current => Ok(found.captured),
            _ => Err(self.newer()),
        }
    }

    /// An entry of the audit trail about this table. The engine sets its time.
    pub(super) fn entry(
        &self,
        action: AuditAction,
        signature: Signature,
        queue: Option<QueueName>,
    ) -> AuditEntry {
        let mut entry = AuditEntry::new(DateTime::UNIX_EPOCH, signature, action, queue);
        entry.subject = Some(format!("{}.{}", self.schema, self.name));
        entry
    }

    /// Leaves what an older ezq captured as it is, and tells what to run.
    fn left_as_it_is(
        &self,
        config: &Value,
        found: list::InstalledCapture,
    ) -> Result<CapturedTable> {
        let upgrade = format!("{PIN}{}", self.statements(config, Some(&found)));
        ezq_core::private::warn!(
            table = self.quoted(),
            function = format!("ezq.{}", quoted(&found.function)),
            "an older ezq captured this table, and `manage_schema` is off: capture it once where \
             it is on, or run the statements in `CapturedTable::upgrade` as the function's owner"
        );

        Ok(CapturedTable {
            upgrade: Some(upgrade),
            ..found.captured
        })
    }

    /// Installs function and triggers under ezq's lock, drops functions whose tables are gone, and records it.
    async fn replace(
        &self,
        connection: &mut PgConnection,
        config: &Value,
        entry: &AuditEntry,
        encoding: Encoding,
    ) -> Result<Option<list::InstalledCapture>, sqlx::Error> {
        let mut tx = connection.begin().await?;
        sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;
        // A writer's transaction may hold the table for long: new writers must not wait behind this.
        sqlx::query("SET LOCAL lock_timeout = '3s'")
            .execute(&mut *tx)
            .await?;
        schema::create_schema(&mut tx).await?;

        // Another process may have been faster, with a newer ezq as well.
        let found = list::of(&mut tx, Some(self.oid)).await?.pop();
        if found
            .as_ref()
            .is_some_and(|found| found.version > sql::VERSION)
        {
            return Ok(found);
        }

        let statements = self.statements(config, found.as_ref());
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut *tx)
            .await?;
        let orphans: Vec<String> = sqlx::query_scalar(sql::ORPHANS).fetch_all(&mut *tx).await?;
        for orphan in orphans {
            sqlx::raw_sql(AssertSqlSafe(sql::drop(&orphan)))
                .execute(&mut *tx)
                .await?;
        }

        let found = list::of(&mut tx, Some(self.oid)).await?.pop();
        audit::write(&mut tx, entry, encoding).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// The statements that install the capture in place of what was found.
    fn statements(&self, config: &Value, found: Option<&list::InstalledCapture>) -> String {
        let made = self.function();
        let name = found.map_or(made.as_str(), |found| &found.function);
        let have = found.map_or(&[][..], |found| &found.triggers);
        let mut statements = sql::function(name, config);
        statements.push_str(&sql::triggers(&self.schema, &self.name, name, have));
        // Consumers of the queues must begin to poll for changes.
        let _ = writeln!(statements, "notify {};", feeds::CHANNEL);
        statements
    }

    fn newer(&self) -> Error {
        let message = format!(
            "{} was captured by a newer ezq with other options, which this one leaves as they are: \
             capture it with the same options, or change them with the newer one",
            self.quoted()
        );
        Error::new(ErrorKind::Configuration, message)
    }

    /// A new name. The table's oid alone would not be unique after a dump is restored.
    fn function(&self) -> String {
        format!("capture_{}_{:016x}", self.oid, rand::random::<u64>())
    }
}

fn gone() -> Error {
    let message = "the capture was removed while it was made: capture the table again";
    Error::new(ErrorKind::Transient, message)
}

fn get<'r, T>(row: &'r sqlx::postgres::PgRow, column: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|failure: sqlx::Error| {
        Error::new(ErrorKind::Engine, "cannot read the catalogue").with_source(failure)
    })
}
