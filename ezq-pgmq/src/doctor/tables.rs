//! The tables of queues: their indexes, whether they survive a crash, and what vacuum leaves in them.

use std::collections::BTreeMap;

use ezq_core::engine::{Finding, Severity};
use ezq_core::message::QueueName;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::found::{Found, counted, span};
use super::session::{Facts, Sight, sight};
use crate::retention::horizon::{self, Holder};
use crate::schema::key_index;
use crate::sql::{PIN, archive, identifier, in_pgmq};

/// An index of a larger table is built beside its users.
const SMALL: i64 = 8 * 1024 * 1024;
/// An archive that is larger is searched by an index only.
const SMALL_ARCHIVE: i64 = 32 * 1024 * 1024;
/// How many of the newest messages are looked at for an ordering key.
const LOOKED_AT: u32 = 1000;
/// With fewer dead rows a table costs nothing that anybody would notice.
const FEW_DEAD: i64 = 10_000;

/// Tables in the schema of PGMQ by name, with what is to be known of their indexes: whether a valid one
/// begins with `vt` or with `msg_id`, and how many of those for ordering keys there are, and are valid.
const TABLES: &str = "
    SELECT c.relname::text AS name, c.relkind = 'p' AS is_partitioned,
           c.relpersistence = 'u' AS is_unlogged, pg_table_size(c.oid) AS size,
           coalesce(bool_or(i.indisvalid AND i.indpred IS NULL AND a.attname = 'vt'), false) AS by_due,
           coalesce(bool_or(i.indisvalid AND i.indpred IS NULL AND a.attname = 'msg_id'), false) AS by_id,
           count(*) FILTER (WHERE x.relname::text ~ '_ezq_(keys|held|plain)$') AS key_indexes,
           count(*) FILTER (WHERE x.relname::text ~ '_ezq_(keys|held|plain)$' AND i.indisvalid)
             AS valid_key_indexes,
           array_remove(array_agg(x.relname::text) FILTER (WHERE NOT i.indisvalid), NULL) AS invalid,
           coalesce(bool_or(i.indisvalid AND x.relname::text ~ '_event_id_idx$'), false) AS by_event
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
    LEFT JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE c.relnamespace = to_regnamespace('pgmq') AND c.relkind IN ('r', 'p')
      AND c.relname::text = ANY ($1::text[])
    GROUP BY c.oid";

/// What is known of a table.
struct Table {
    name: String,
    is_partitioned: bool,
    is_unlogged: bool,
    size: i64,
    by_due: bool,
    by_id: bool,
    key_indexes: i64,
    valid_key_indexes: i64,
    invalid: Vec<String>,
    by_event: bool,
}

impl Table {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let invalid: Option<Vec<String>> = row.try_get("invalid")?;
        Ok(Self {
            name: row.try_get("name")?,
            is_partitioned: row.try_get("is_partitioned")?,
            is_unlogged: row.try_get("is_unlogged")?,
            size: row.try_get("size")?,
            by_due: row.try_get("by_due")?,
            by_id: row.try_get("by_id")?,
            key_indexes: row.try_get("key_indexes")?,
            valid_key_indexes: row.try_get("valid_key_indexes")?,
            invalid: invalid.unwrap_or_default(),
            by_event: row.try_get("by_event")?,
        })
    }

    /// `create index`, so that its users go on.
    fn create_index(&self) -> &'static str {
        // A partitioned table cannot be indexed concurrently.
        match self.size > SMALL && !self.is_partitioned {
            true => "create index concurrently",
            false => "create index",
        }
    }
}

pub(super) async fn tables(connection: &mut PgConnection, facts: &Facts) -> Found {
    let names = facts.queues.iter().flat_map(|queue| {
        let dead = queue.dead_letters();
        [
            format!("q_{queue}"),
            format!("q_{dead}"),
            format!("a_{queue}"),
        ]
    });
    let names: Vec<String> = names.collect();
    let rows = sqlx::query(TABLES).bind(names).fetch_all(&mut *connection);
    let mut found = BTreeMap::new();
    for row in &rows.await? {
        let table = Table::read(row)?;
        found.insert(table.name.clone(), table);
    }

    let mut findings = Vec::new();
    for queue in &facts.queues {
        if let Some(table) = found.get(&format!("q_{queue}")) {
            findings.extend(of_queue(table).map(|finding| finding.about_queue(queue)));
            findings.extend(keys(connection, queue, table).await?);
        }
        match found.get(&format!("q_{}", queue.dead_letters())) {
            Some(table) => {
                findings.extend(of_queue(table).map(|finding| finding.about_queue(queue)));
            }
            None => findings.push(no_dead_letters(queue)),
        }
        if let Some(table) = found.get(&format!("a_{queue}")) {
            findings.extend(of_archive(queue, table));
        }
    }

    if findings.is_empty() {
        let queues = counted(facts.queues.len(), "queue");
        let text = format!("{queues} with all indexes, and with places for dead letters");
        findings.push(Finding::new(Severity::Ok, "tables", text));
    }
    Ok(findings)
}

/// What is wrong with the table of a queue, or of its dead letters.
fn of_queue(table: &Table) -> impl Iterator<Item = Finding> + use<> {
    let name = &table.name;
    let place = in_pgmq(name);
    let mut findings = Vec::new();
    let mut add = |severity, text: String, sql: String| {
        findings.push(Finding::new(severity, "tables", text).remedy(sql));
    };

    if !table.by_due {
        let index = identifier(&format!("{name}_ezq_vt_idx"));
        add(
            Severity::Error,
            format!(
                "the table pgmq.{name} has no valid index on `vt`: every claim reads all of it"
            ),
            format!("{} {index} on {place} (vt);", table.create_index()),
        );
    }
    // A partitioned table has its numbers indexed by part, if at all.
    if !table.by_id && !table.is_partitioned {
        let index = identifier(&format!("{name}_ezq_msg_id_idx"));
        let create = table.create_index().replacen("create", "create unique", 1);
        add(
            Severity::Error,
            format!(
                "the table pgmq.{name} has no valid index on `msg_id`: every settlement reads all of it"
            ),
            format!("{create} {index} on {place} (msg_id);"),
        );
    }
    if table.is_unlogged {
        add(
            Severity::Warning,
            format!("the table pgmq.{name} is unlogged: a crash of the server empties it"),
            format!("alter table {place} set logged;"),
        );
    }
    findings.into_iter()
}

/// The indexes for ordering keys, of a queue that has keys.
async fn keys(
    connection: &mut PgConnection,
    queue: &QueueName,
    table: &Table,
) -> Result<Option<Finding>, sqlx::Error> {
    if table.valid_key_indexes >= 3 {
        return Ok(None);
    }
    let has_keys = match table.key_indexes {
        0 => has_keys(connection, queue).await?,
        // Somebody has begun to create them.
        _ => true,
    };
    if !has_keys {
        return Ok(None);
    }

    let text = format!(
        "{} of 3 indexes for ordering keys are valid: claims are slow",
        table.valid_key_indexes
    );
    let mut sql = PIN.to_owned();
    // `if not exists` would take an invalid one for complete.
    for index in &table.invalid {
        sql.push_str(&format!("drop index if exists {};\n", in_pgmq(index)));
    }
    let script = key_index::script(queue);
    sql.push_str(&script.replace("create index", table.create_index()));
    let finding = Finding::new(Severity::Warning, "tables", text).remedy(sql);
    Ok(Some(finding.about_queue(queue).advice(
        "ezq does this by itself where it may change the schema, within an hour",
    )))
}

async fn has_keys(connection: &mut PgConnection, queue: &QueueName) -> Result<bool, sqlx::Error> {
    let name = format!("q_{queue}");
    if sight(&mut *connection, "pgmq", &name).await? != Sight::Readable {
        return Ok(false);
    }
    let statement = format!(
        "SELECT EXISTS (
           SELECT FROM (SELECT headers FROM {} ORDER BY msg_id DESC LIMIT {LOOKED_AT}) newest
           WHERE headers ->> 'x-pgmq-group'::text IS NOT NULL)",
        in_pgmq(&name)
    );
    sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_one(connection)
        .await
}

fn no_dead_letters(queue: &QueueName) -> Finding {
    let text =
        "it has no place for dead letters: an event that cannot be handled is tried for ever";
    Finding::new(Severity::Error, "tables", text)
        .about_queue(queue)
        .remedy(format!("select pgmq.create('{}');", queue.dead_letters()))
        .advice("a consumer that may change the schema does this when it starts")
}

fn of_archive(queue: &QueueName, table: &Table) -> Option<Finding> {
    if table.by_event || table.is_partitioned || table.size <= SMALL_ARCHIVE {
        return None;
    }
    let statements = [
        archive::create_index(queue),
        archive::create_codec_index(queue),
    ];
    let sql = statements
        .map(|statement| statement.replacen("create index", "create index concurrently", 1));
    let text = format!(
        "its archive has {} MiB and no index on the ids of events: to look for one reads all of it",
        table.size / 1024 / 1024
    );
    let finding = Finding::new(Severity::Notice, "tables", text).about_queue(queue);
    Some(finding.remedy(format!("{PIN}{};", sql.join(";\n"))))
}

/// What the server counts of the tables of queues. The parts of a partitioned one are tables as well.
const VACUUM: &str = "
    SELECT s.relname::text, s.n_live_tup, s.n_dead_tup,
           floor(extract(epoch FROM
             clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum)))::bigint,
           coalesce('autovacuum_enabled=false' = ANY (c.reloptions)
                    OR 'autovacuum_enabled=off' = ANY (c.reloptions), false)
    FROM pg_catalog.pg_stat_all_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
    WHERE s.schemaname = 'pgmq' AND starts_with(s.relname::text, 'q_') ORDER BY 1";
/// A table that was vacuumed since is in order, however many rows have died again.
const VACUUMED_LATELY: i64 = 600;

type Vacuumed = (String, i64, i64, Option<i64>, bool);

pub(super) async fn vacuum(connection: &mut PgConnection, facts: &Facts) -> Found {
    let mut findings = Vec::new();
    for setting in ["autovacuum", "track_counts"] {
        if let Some(setting) = facts.settings.find(setting)
            && setting.value == "off"
        {
            let text = format!("{} is off, {}", setting.name, setting.origin());
            let mut finding = Finding::new(Severity::Warning, "vacuum", text)
                .advice("dead rows make queues slower until somebody vacuums them");
            finding.remedy = setting.change("on", &facts.login, &facts.database);
            findings.push(finding);
        }
    }

    let rows: Vec<Vacuumed> = sqlx::query_as(VACUUM).fetch_all(&mut *connection).await?;
    let dead: i64 = rows.iter().map(|row| row.2).sum();
    findings.extend(rows.iter().filter_map(of_disabled));
    // What is younger ends soon, as a rule.
    let old = (facts.options.old_after, facts.options.slot_lag);
    let horizon = horizon::oldest(connection, old).await?;
    let holder = horizon.and_then(|horizon| horizon.holder);
    let dead_rows = rows
        .iter()
        .filter_map(|row| of_dead_rows(row, holder.as_ref()));
    findings.extend(dead_rows);
    if findings.is_empty() {
        let tables = counted(rows.len(), "table");
        let text = format!("{dead} dead rows in {tables} of queues");
        findings.push(Finding::new(Severity::Ok, "vacuum", text));
    }
    Ok(findings)
}

fn of_disabled((name, .., is_disabled): &Vacuumed) -> Option<Finding> {
    let text = "autovacuum is off for it: dead rows make it slower until somebody vacuums it";
    is_disabled.then(|| {
        Finding::new(Severity::Warning, "vacuum", text)
            .about(format!("the table pgmq.{name}"))
            .remedy(format!(
                "alter table {} reset (autovacuum_enabled);",
                in_pgmq(name)
            ))
    })
}

/// A table with more dead rows than live ones. If somebody holds them, each vacuum leaves them.
fn of_dead_rows(
    (name, live, dead, vacuumed, _): &Vacuumed,
    holder: Option<&Holder>,
) -> Option<Finding> {
    let is_lagging = vacuumed.is_none_or(|age| age > VACUUMED_LATELY);
    if *dead <= FEW_DEAD || dead <= live || !(is_lagging || holder.is_some()) {
        return None;
    }
    let when = match vacuumed {
        Some(age) => format!("vacuumed {} ago", span(*age)),
        None => "never vacuumed".to_owned(),
    };
    let held = holder.map_or_else(String::new, |holder| {
        format!(". {holder}, may still see them")
    });
    let text = format!("{dead} dead rows beside {live} live ones, {when}{held}");
    let finding = Finding::new(Severity::Warning, "vacuum", text)
        .about(format!("the table pgmq.{name}"))
        .remedy(format!("vacuum (analyze) {};", in_pgmq(name)));
    let advice = match holder {
        Some(holder) => format!("before that, {}", holder.remedy()),
        None => "if the rows stay dead, an old transaction holds them, perhaps of a role of whose \
                 transactions this one does not see the times: see the checks `transactions` and `prepared`"
            .to_owned(),
    };
    Some(finding.advice(advice))
}
