//! ezq's own tables, in the schema `ezq` beside `pgmq`, and how a database comes to have them.
//!
//! They are created when they are first needed: an application that uses none of what they are for
//! needs no schema. The catalogue is asked first, so where all is current no statement changes
//! anything, and a role without rights on the schema works. What is missing is created under ezq's
//! lock, on a connection that is closed afterwards. Nothing is ever taken back: a database that a
//! newer ezq migrated is left as it is, and serves this one.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Place;
use crate::connector::Connector;
use crate::install::{LOCK, LOCK_KEY, LOCK_TIMEOUT, quoted};
use crate::link::Link;
use crate::{error, ownership};

/// What a table is for, and so in which databases it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// In the database that keeps the queues.
    Engine,
    /// There, too: subscriptions, and the functions that broadcast.
    Broadcast,
    /// There, too: when which schedule ticks.
    Schedules,
    /// There, too: how far which replay has come.
    Replays,
    /// There, too: what became of events that were deleted.
    Trail,
    /// In a database where handlers take effect.
    Inbox,
}

/// One step. Its number and name are for ever; it adds, can be run twice, and leaves the schema fit
/// for an older ezq.
struct Migration {
    version: i32,
    name: &'static str,
    part: Part,
    /// The tables that it makes or changes, on which an application's role needs rights.
    table: &'static str,
    sql: &'static str,
}

/// In the order in which they are applied.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "dedupe keys",
        part: Part::Engine,
        table: "ezq.dedupe",
        sql: "\
create table if not exists ezq.dedupe (
  queue text not null,
  key text collate \"C\" not null,
  queue_table oid not null,
  message_id bigint not null,
  event_id text not null,
  taken_at timestamptz not null,
  free_at timestamptz not null,
  primary key (queue, key)
);
create index if not exists dedupe_free_at on ezq.dedupe (free_at);
",
    },
    Migration {
        version: 2,
        name: "inbox",
        part: Part::Inbox,
        table: "ezq.inbox",
        sql: "\
create table if not exists ezq.inbox (
  handler text not null,
  source text not null,
  event_id text not null,
  handled_at timestamptz not null default pg_catalog.clock_timestamp(),
  primary key (handler, source, event_id)
);
create index if not exists inbox_handled_at on ezq.inbox (handled_at);
",
    },
    Migration {
        version: 3,
        name: "subscriptions",
        part: Part::Broadcast,
        table: "ezq.subscriptions, ezq.event_parties",
        sql: include_str!("subscriptions.sql"),
    },
    Migration {
        version: 4,
        name: "schedules",
        part: Part::Schedules,
        table: "ezq.schedules",
        sql: "\
create table if not exists ezq.schedules (
  name text collate \"C\" primary key,
  application text not null,
  definition text collate \"C\" not null,
  next_at timestamptz not null,
  last_tick timestamptz,
  fired_at timestamptz,
  paused_at timestamptz,
  resumed_at timestamptz,
  seen_at timestamptz not null
);
",
    },
    Migration {
        version: 5,
        name: "replays",
        part: Part::Replays,
        table: "ezq.replays",
        sql: "\
create table if not exists ezq.replays (
  name text collate \"C\" primary key,
  queue text not null,
  target text not null,
  definition jsonb not null,
  position bigint not null default 0,
  last_id bigint not null,
  handed_over bigint not null default 0,
  began_at timestamptz not null default pg_catalog.clock_timestamp(),
  moved_at timestamptz not null default pg_catalog.clock_timestamp()
);
",
    },
    Migration {
        version: 6,
        name: "trail",
        part: Part::Trail,
        table: "ezq.trail",
        sql: "\
create table if not exists ezq.trail (
  queue text collate \"C\" not null,
  message_id bigint not null,
  event_id text not null,
  event_type text,
  published_at timestamptz not null,
  deliveries integer not null,
  headers jsonb,
  ended_at timestamptz not null
);
create index if not exists trail_event_id on ezq.trail using hash (event_id);
create index if not exists trail_ended_at on ezq.trail (queue, ended_at);
",
    },
    Migration {
        version: 7,
        name: "pinned functions",
        part: Part::Broadcast,
        table: "ezq.subscriptions, ezq.event_parties",
        sql: include_str!("broadcast.sql"),
    },
    Migration {
        version: 8,
        name: "queue names",
        part: Part::Broadcast,
        table: "ezq.subscriptions",
        sql: "\
alter table ezq.subscriptions drop constraint if exists subscriptions_queue_check;
alter table ezq.subscriptions add constraint subscriptions_queue_check
  check (queue ~ '^[a-z0-9_.:/@-]{1,47}$' and queue !~ '--');
",
    },
    Migration {
        version: 9,
        name: "what a replay began beside",
        part: Part::Replays,
        table: "ezq.replays",
        sql: "\
alter table ezq.replays add column if not exists open bigint[] not null default '{}';
",
    },
];

const SCHEMA: &str = "create schema if not exists ezq;\n";

const RECORD: &str = "\
create table if not exists ezq.migrations (
  version integer primary key,
  name text not null,
  applied_at timestamptz not null default pg_catalog.clock_timestamp()
);
";

const PROBE: &str = "SELECT pg_catalog.to_regnamespace('ezq') IS NOT NULL, \
                     EXISTS (SELECT FROM pg_catalog.pg_class c \
                             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                             WHERE n.nspname = 'ezq' AND c.relname = 'migrations')";

/// What a database has.
struct Found {
    schema: bool,
    record: bool,
    applied: BTreeSet<i32>,
}

impl Found {
    fn missing(&self, part: Part) -> Vec<&'static Migration> {
        let missing = |m: &&Migration| m.part == part && !self.applied.contains(&m.version);
        MIGRATIONS.iter().filter(missing).collect()
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
        Self { part, stands: AtomicBool::new(false) }
    }

    /// Makes sure that the part's tables stand, and creates them where `manage` allows it.
    pub(crate) async fn ensure(
        &self,
        control: &Link,
        connector: &Connector,
        manage: bool,
    ) -> Result<()> {
        if self.stands.load(Ordering::Relaxed) {
            return Ok(());
        }
        let place = connector.place();
        let found = {
            let mut link = control.checkout().await?;
            let watch = link.watch();
            // Since the engine connected somebody may have taken the name.
            let looked = async {
                let stranger = ownership::stranger(link.connection()).await?;
                Ok((stranger, probe(link.connection()).await?))
            };
            let result = watch.limit(looked).await;
            let looked = link.end(result);
            let (stranger, found) =
                looked.map_err(|failure| out_of_reach(failure, self.part, place))?;
            if let Some(stranger) = stranger {
                return Err(stranger.refused(place));
            }
            found
        };
        if !found.missing(self.part).is_empty() {
            if !manage {
                return Err(absent(self.part, place));
            }
            create(connector, self.part).await?;
        }
        self.stands.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What was known no longer holds.
    pub(crate) fn forget(&self) {
        self.stands.store(false, Ordering::Relaxed);
    }
}

/// Applies what is missing, in a transaction of its own.
pub(crate) async fn migrate(connection: &mut PgConnection, part: Part) -> Result<(), sqlx::Error> {
    if probe(connection).await?.missing(part).is_empty() {
        return Ok(());
    }
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query(LOCK).bind(LOCK_KEY).execute(&mut *tx).await?;
    // Another may have been faster.
    let found = probe(&mut tx).await?;
    create_schema(&mut tx).await?;
    if !found.record {
        sqlx::raw_sql(RECORD).execute(&mut *tx).await?;
    }
    for Migration { version, name, sql, .. } in found.missing(part) {
        sqlx::raw_sql(AssertSqlSafe(*sql)).execute(&mut *tx).await?;
        sqlx::raw_sql(AssertSqlSafe(record(*version, name))).execute(&mut *tx).await?;
        tracing::info!(version, name, "migrated the schema `ezq`");
    }
    tx.commit().await
}

/// Makes the schema where it is absent: a role may own it without the right to create one.
pub(crate) async fn create_schema(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if !probe(&mut *connection).await?.schema {
        sqlx::raw_sql(SCHEMA).execute(connection).await?;
    }
    Ok(())
}

/// The statements that a part consists of, for an administrator. They can be run again, and then make
/// only what is missing: what a newer ezq made is not replaced by what an older one prints.
pub(crate) fn sql(part: Part, role: Option<&str>) -> String {
    let mut sql = format!("{SCHEMA}{RECORD}");
    let steps = || MIGRATIONS.iter().filter(|step| step.part == part);
    for Migration { version, name, table, sql: step, .. } in steps() {
        let tables = table.split(", ").map(|table| format!("to_regclass('{table}')"));
        let tables: Vec<String> = tables.collect();
        // What stands may be a newer ezq's. Writing to a string cannot fail.
        let _ = write!(
            sql,
            "do $ezq$ begin\n\
             if num_nulls({}) > 0 or not exists (select from ezq.migrations where version = {version})\n\
             then\n{step}{}end if;\nend $ezq$;\n",
            tables.join(", "),
            record(*version, name)
        );
    }
    if let Some(role) = role {
        let role = quoted(role);
        let _ = writeln!(sql, "grant usage on schema ezq to {role};");
        let _ = writeln!(sql, "grant select on ezq.migrations to {role};");
        let tables: BTreeSet<&str> = steps().map(|step| step.table).collect();
        for table in tables {
            let _ = writeln!(sql, "grant select, insert, update, delete on {table} to {role};");
        }
    }
    sql
}

/// The error of a part that is not there and is not to be, or cannot be, created.
pub(crate) fn absent(part: Part, place: &Place) -> Error {
    let text = format!(
        "the role `{}` finds no tables of ezq in the database `{}`, and is not to, or may not, create \
         them: run this there as an administrator\n{}",
        place.role,
        place.database,
        sql(part, Some(&place.role))
    );
    Error::new(ErrorKind::SchemaMissing, text)
}

fn record(version: i32, name: &str) -> String {
    format!(
        "insert into ezq.migrations (version, name) values ({version}, '{name}') \
         on conflict do nothing;\n"
    )
}

async fn probe(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    let (schema, record): (bool, bool) = sqlx::query_as(PROBE).fetch_one(&mut *connection).await?;
    let mut applied = BTreeSet::new();
    if record {
        let versions = sqlx::query_scalar::<_, i32>("SELECT version FROM ezq.migrations");
        applied.extend(versions.fetch_all(connection).await?);
    }
    Ok(Found { schema, record, applied })
}

async fn create(connector: &Connector, part: Part) -> Result<()> {
    let place = connector.place();
    let mut own = connector.connect().await?;
    let migrated = migrate(&mut own, part).await;
    // Ends the transaction, and with it the lock.
    let _ = own.close().await;
    migrated.map_err(|failure| out_of_reach(failure, part, place))
}

/// The error of a statement on a part's tables, with what to run where the role lacks a right.
pub(crate) fn out_of_reach(failure: sqlx::Error, part: Part, place: &Place) -> Error {
    match error::of(failure, place) {
        refused if refused.kind() == ErrorKind::Permission => {
            absent(part, place).with_source(refused)
        }
        other => other,
    }
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
