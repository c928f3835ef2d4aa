//! ezq's own tables, in the schema `ezq` beside `pgmq`: looking them up and migrating them.
//!
//! They are created when they are first needed. The catalogue is read first, so where all is
//! current nothing is changed, and a role without rights on the schema works. Missing parts are
//! created under ezq's lock, on a connection that is closed afterwards. Nothing is ever taken back:
//! a database that a newer ezq migrated serves this one as it is. What was dropped is created
//! again.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::config::Place;
use crate::connection::connector::Connector;
use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::schema::lock::{LOCK, LOCK_KEY, LOCK_TIMEOUT};
use crate::schema::migrations::{MIGRATIONS, Migration};
use crate::schema::ownership;
use crate::schema::part::Part;
use crate::sql::{PIN, quoted};

/// While a migration waits for a table's lock, users of the table wait behind it.
const TABLE_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";
/// How long others have the tables before a migration is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long a migration is tried.
const PATIENCE: Duration = Duration::from_secs(20);

const SCHEMA: &str = "create schema if not exists ezq;\n";

const RECORD: &str = "\
create table if not exists ezq.migrations (
  version integer primary key,
  name text not null,
  applied_at timestamptz not null default pg_catalog.clock_timestamp()
);
";

/// All tables and functions in the schema; NULL without the schema. The catalogue needs no right.
const PROBE: &str = "
    SELECT CASE WHEN n.oid IS NOT NULL THEN ARRAY(
      SELECT 'ezq.'::text || c.relname::text
      FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) n.oid
      UNION
      SELECT 'ezq.'::text || p.proname::text || '()'::text
      FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid)
    END
    FROM (SELECT pg_catalog.to_regnamespace('ezq')::oid AS oid) n";

/// What a database has of the schema.
pub(super) struct Catalogue {
    has_schema: bool,
    /// Tables and functions.
    stands: BTreeSet<String>,
    pub(super) applied: BTreeSet<i32>,
}

impl Catalogue {
    /// The migrations to apply: those that were never applied, and from the first on whose table or
    /// function was dropped.
    pub(super) fn missing(&self, part: Part) -> Vec<&'static Migration> {
        let mut is_broken = false;
        MIGRATIONS
            .iter()
            .filter(|m| m.part == part)
            .filter(|m| {
                is_broken |= m.makes.iter().any(|name| !self.stands.contains(*name));
                is_broken || !self.applied.contains(&m.version)
            })
            .collect()
    }

    /// The names of what a part lacks.
    pub(super) fn lacks(&self, part: Part) -> String {
        let mut names = BTreeSet::new();
        for migration in self.missing(part) {
            let absent = migration.makes.iter();
            let absent: Vec<String> = absent
                .filter(|name| !self.stands.contains(**name))
                .map(|name| format!("`{name}`"))
                .collect();
            // One that creates nothing by itself goes by its name.
            if absent.is_empty() && !self.applied.contains(&migration.version) {
                names.insert(format!("the change \"{}\"", migration.name));
            }
            names.extend(absent);
        }

        if !self.stands.contains("ezq.migrations") {
            names.insert("`ezq.migrations`".to_owned());
        }

        Vec::from_iter(names).join(", ")
    }

    /// Whether something was dropped that an applied migration had created.
    pub(super) fn is_broken(&self, part: Part) -> bool {
        self.missing(part)
            .iter()
            .any(|m| self.applied.contains(&m.version))
    }
}

/// One part, looked up once and remembered until a statement finds it gone.
#[derive(Debug)]
pub(crate) struct Schema {
    part: Part,
    stands: AtomicBool,
}

impl Schema {
    pub(crate) fn new(part: Part) -> Self {
        Self {
            part,
            stands: AtomicBool::new(false),
        }
    }

    /// Makes sure of the part's tables, and creates them where `manage` allows it.
    pub(crate) async fn ensure(
        &self,
        control: &Dedicated,
        connector: &Connector,
        manage: bool,
    ) -> Result<()> {
        // A cache of the answer: who misses it only asks the database once more.
        if self.stands.load(Ordering::Relaxed) {
            return Ok(());
        }

        let place = connector.place();
        let looked = call!(control, |connection| async {
            // Somebody may have taken the name after the engine connected.
            let foreign = ownership::foreign_owner(&mut *connection).await?;
            Ok((foreign, probe(connection).await?))
        })?;
        let (foreign, found) = looked.map_err(|failure| out_of_reach(failure, self.part, place))?;

        if let Some(foreign) = foreign {
            return Err(foreign.refused(place));
        }

        if !found.missing(self.part).is_empty() {
            let absent = || absent(self.part, place, &found.lacks(self.part));
            if !manage {
                return Err(absent());
            }

            create(connector, self.part)
                .await
                .map_err(|failure| match failure.kind() {
                    ErrorKind::Permission => absent().with_source(failure),
                    _ => failure,
                })?;
        }

        // Relaxed: the flag guards no other data.
        self.stands.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets that the part was found.
    pub(crate) fn forget(&self) {
        self.stands.store(false, Ordering::Relaxed);
    }
}

/// Applies missing migrations, in a transaction. While others' transactions block it, it lets those
/// pass that wait behind it, and tries again.
pub(crate) async fn migrate(connection: &mut PgConnection, part: Part) -> Result<(), sqlx::Error> {
    if probe(connection).await?.missing(part).is_empty() {
        return Ok(());
    }

    let begun = Instant::now();
    loop {
        match apply(&mut *connection, part).await {
            Err(failure) if error::is_locked(&failure) && begun.elapsed() < PATIENCE => {
                tracing::debug!(%failure, "the schema `ezq` cannot be changed yet");
                sleep(PAUSE).await;
            }
            applied => return applied,
        }
    }
}

async fn apply(connection: &mut PgConnection, part: Part) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;
    sqlx::query(TABLE_LOCK_TIMEOUT).execute(&mut *tx).await?;

    // Another process may have been faster.
    let found = probe(&mut tx).await?;
    create_schema(&mut tx).await?;
    if !found.stands.contains("ezq.migrations") {
        sqlx::raw_sql(RECORD).execute(&mut *tx).await?;
    }

    if found.is_broken(part) {
        // The changes of a newer ezq went with what was dropped: its next start must apply them
        // again.
        sqlx::query("DELETE FROM ezq.migrations WHERE version > $1")
            .bind(MIGRATIONS.iter().map(|step| step.version).max())
            .execute(&mut *tx)
            .await?;
    }

    for Migration {
        version, name, sql, ..
    } in found.missing(part)
    {
        sqlx::raw_sql(AssertSqlSafe(*sql)).execute(&mut *tx).await?;
        sqlx::raw_sql(AssertSqlSafe(record(*version, name)))
            .execute(&mut *tx)
            .await?;
        tracing::info!(version, name, "migrated the schema `ezq`");
    }

    tx.commit().await
}

/// Creates the schema where it is absent. A role may own the schema without the right to create
/// one.
pub(crate) async fn create_schema(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if !probe(&mut *connection).await?.has_schema {
        sqlx::raw_sql(SCHEMA).execute(connection).await?;
    }
    Ok(())
}

/// The script that creates a part, for an administrator.
pub(crate) fn script(part: Part, role: Option<&str>) -> String {
    format!("{PIN}{}", sql(part, role))
}

/// The statements of a part, under a pinned path. They can be run again, and then create only what
/// is missing: what a newer ezq made is not replaced.
pub(crate) fn sql(part: Part, role: Option<&str>) -> String {
    let mut sql = format!(
        "{SCHEMA}{RECORD}do $ezq$ declare is_broken boolean := false;\nbegin\n\
         -- Whoever needs a table waits behind a change of it: if this fails, run it again.\n\
         perform pg_catalog.set_config('lock_timeout', '2s', true);\n"
    );
    let steps = || MIGRATIONS.iter().filter(|step| step.part == part);
    for Migration {
        version,
        name,
        makes,
        sql: step,
        ..
    } in steps()
    {
        let absent = makes.iter().map(|name| match name.strip_suffix("()") {
            None => format!("pg_catalog.to_regclass('{name}') is null"),
            Some(function) => format!(
                "not exists (select from pg_catalog.pg_proc where pronamespace = \
                 'ezq'::regnamespace::oid and 'ezq.'::text || proname::text = '{function}'::text)"
            ),
        });

        // Writing to a string cannot fail.
        for absent in absent {
            let _ = writeln!(sql, "is_broken := is_broken or {absent};");
        }

        let record = record(*version, name);
        let _ = writeln!(
            sql,
            "if is_broken or not exists (select from ezq.migrations where version = {version})\n\
             then\n{step}{record}end if;"
        );
    }

    sql.push_str("end $ezq$;\n");
    if let Some(role) = role {
        let role = quoted(role);
        let _ = writeln!(sql, "grant usage on schema ezq to {role};");
        let _ = writeln!(sql, "grant select on ezq.migrations to {role};");
        let tables: BTreeSet<&str> = steps().flat_map(Migration::tables).collect();

        for table in tables {
            let _ = writeln!(
                sql,
                "grant select, insert, update, delete on {table} to {role};"
            );
        }
    }

    sql
}

/// The error when a part is incomplete and may not, or cannot, be created.
fn absent(part: Part, place: &Place, lacks: &str) -> Error {
    let text = format!(
        "the database `{}` lacks {lacks}, and the role `{}` must not or cannot create it: run \
         this there as an administrator\n{}",
        place.database,
        place.role,
        script(part, Some(&place.role))
    );
    Error::new(ErrorKind::SchemaMissing, text)
}

fn record(version: i32, name: &str) -> String {
    format!(
        "insert into ezq.migrations (version, name) values ({version}, '{name}') \
         on conflict do nothing;\n"
    )
}

pub(super) async fn probe(connection: &mut PgConnection) -> Result<Catalogue, sqlx::Error> {
    let stands: Option<Vec<String>> = sqlx::query_scalar(PROBE)
        .fetch_one(&mut *connection)
        .await?;
    let has_schema = stands.is_some();
    let stands = BTreeSet::from_iter(stands.unwrap_or_default());
    let mut applied = BTreeSet::new();

    if stands.contains("ezq.migrations") {
        let versions = sqlx::query_scalar::<_, i32>("SELECT version FROM ezq.migrations");
        applied.extend(versions.fetch_all(connection).await?);
    }

    Ok(Catalogue {
        has_schema,
        stands,
        applied,
    })
}

async fn create(connector: &Connector, part: Part) -> Result<()> {
    let place = connector.place();
    let mut own = connector.connect().await?;
    let migrated = migrate(&mut own, part).await;
    // Ends the transaction, and with it the lock.
    let _ = own.close().await;
    migrated.map_err(|failure| error::of(failure, place))
}

/// The error of a statement on a part's tables. If the role lacks a right, it says what to run.
pub(crate) fn out_of_reach(failure: sqlx::Error, part: Part, place: &Place) -> Error {
    let refused = error::of(failure, place);
    if refused.kind() != ErrorKind::Permission {
        return refused;
    }

    let steps = MIGRATIONS.iter().filter(|step| step.part == part);
    let tables = steps
        .flat_map(Migration::tables)
        .map(|table| format!("`{table}`"));
    let text = format!(
        "the role `{}` lacks a right on {} in the database `{}`: run this there as an \
         administrator\n{}",
        place.role,
        Vec::from_iter(tables).join(", "),
        place.database,
        script(part, Some(&place.role))
    );
    Error::new(ErrorKind::SchemaMissing, text).with_source(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_and_names_need_no_quotes() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.version < b.version));
        assert!(MIGRATIONS.iter().all(|step| !step.name.contains('\'')));
        assert!(MIGRATIONS.iter().all(|step| !step.sql.contains("$ezq$")));
    }
}
