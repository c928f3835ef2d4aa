//! What keeps a queue from being partitioned: what a new table would not have, and code of others.
//!
//! Moving rows runs the code that belongs to their table: functions of its indexes, constraints and
//! generated columns. It would run with the rights of whoever moves them, so only the table's owner may.
//! All checks read the catalog alone, and run none of that code.

use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

/// The queue `$1`'s table, and with its partitions or heirs.
const TABLES: &str = "
    WITH root AS (
      SELECT c.* FROM pg_catalog.pg_class c, pg_catalog.pg_namespace n
      WHERE n.nspname = 'pgmq' AND c.relnamespace = n.oid AND c.relname = 'q_' || $1),
    tables AS (
      SELECT * FROM root UNION ALL
      SELECT c.* FROM root r, pg_catalog.pg_inherits i, pg_catalog.pg_class c
      WHERE i.inhparent = r.oid AND c.oid = i.inhrelid),
    sequence AS (
      SELECT to_regclass(pg_get_serial_sequence('pgmq.' || quote_ident(r.relname), 'msg_id')) AS oid
      FROM root r WHERE r.relkind IN ('r', 'p'))";

/// Why a queue is refused, and a query of what it has that is named in place of `{}`. The first that finds
/// something is told.
const OBSTACLES: [(&str, &str); 15] = [
    (
        "its table belongs to the role `{}`, whose code would run with your rights: connect as that role",
        "SELECT pg_get_userbyid(t.relowner) FROM tables t WHERE pg_get_userbyid(t.relowner) <> current_user",
    ),
    (
        "`{}` is not a table",
        "SELECT r.relname FROM root r WHERE r.relkind NOT IN ('r', 'p')",
    ),
    (
        "its numbers do not come from a sequence of its own",
        "SELECT s.oid FROM sequence s WHERE s.oid IS NULL",
    ),
    (
        "`{}` belongs to an extension, which does not let it go: `alter extension .. drop table` first",
        "SELECT o.oid::regclass FROM (SELECT oid FROM tables UNION ALL SELECT oid FROM sequence) o
         JOIN pg_catalog.pg_depend d ON d.objid = o.oid
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e'",
    ),
    (
        "its table has partitions, heirs or a parent that ezq did not make: `{}`",
        "SELECT i.inhrelid::regclass FROM root r
         JOIN pg_catalog.pg_inherits i ON r.oid IN (i.inhparent, i.inhrelid)
         JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         WHERE i.inhrelid = r.oid OR r.relkind <> 'p' OR c.relkind <> 'r'
           OR NOT starts_with(c.relname::text, r.relname || '--')",
    ),
    (
        "its table `{}` has partitions that ezq did not make, or none",
        "SELECT r.relname FROM root r WHERE r.relkind = 'p'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = r.oid)",
    ),
    (
        "its table `{}` is unlogged: `alter table .. set logged` first",
        "SELECT t.relname FROM tables t WHERE t.relpersistence <> 'p'",
    ),
    (
        "its table `{}` has row policies, which would be lost",
        "SELECT t.relname FROM tables t WHERE t.relrowsecurity
           OR EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = t.oid)",
    ),
    (
        "its table has the trigger `{}`, which would be lost",
        "SELECT g.tgname FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid
         WHERE NOT g.tgisinternal ORDER BY 1",
    ),
    (
        "its table belongs to the publication `{}`: subscribers would get its rows twice, or miss new ones",
        "SELECT p.pubname FROM pg_catalog.pg_publication p, tables t
         WHERE p.puballtables
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                      WHERE s.pnpubid = p.oid AND s.pnnspid = t.relnamespace)
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                      WHERE r.prpubid = p.oid AND r.prrelid = t.oid)",
    ),
    (
        "its table has the replica identity `{}`, which would be lost",
        "SELECT CASE t.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing' ELSE 'index' END
         FROM tables t WHERE t.relreplident <> 'd'",
    ),
    (
        "its table has the foreign key `{}`, or is referred to by it",
        "SELECT f.conname FROM tables t
         JOIN pg_catalog.pg_constraint f ON t.oid IN (f.conrelid, f.confrelid) WHERE f.contype = 'f'",
    ),
    (
        "its table has the unique or exclusion index `{}`, which partitions cannot have",
        "SELECT i.indexrelid::regclass FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
         WHERE NOT i.indisprimary AND (i.indisunique OR i.indisexclusion)",
    ),
    (
        "its table is used by `{}`, which would be lost",
        "SELECT pg_describe_object(d.classid, d.objid, 0) FROM tables t
         JOIN pg_catalog.pg_depend d ON d.refobjid = t.oid
         WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
           AND d.classid IN ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_policy'::regclass,
                             'pg_catalog.pg_proc'::regclass)",
    ),
    (
        "its table is used by the function or column `{}`, which takes its rows",
        "SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM tables t
         JOIN pg_catalog.pg_type y ON y.oid = t.reltype
         JOIN pg_catalog.pg_depend d ON d.refobjid IN (y.oid, y.typarray)
         WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND d.deptype = 'n'",
    ),
];

/// The first thing that keeps the queue from being partitioned.
pub(super) async fn first(
    tx: &mut PgConnection,
    queue: &QueueName,
) -> Result<Option<String>, sqlx::Error> {
    let queries: Vec<String> = OBSTACLES
        .iter()
        .enumerate()
        .map(|(place, (_, query))| {
            format!("(SELECT {place} AS place, what::text FROM ({query}) q (what) LIMIT 1)")
        })
        .collect();
    let statement = format!(
        "{TABLES} SELECT place, coalesce(what, '') FROM ({}) found ORDER BY place LIMIT 1",
        queries.join(" UNION ALL ")
    );

    let found: Option<(i32, String)> = sqlx::query_as(AssertSqlSafe(statement))
        .bind(queue.as_str())
        .fetch_optional(tx)
        .await?;
    Ok(found.and_then(|(place, what)| {
        let (why, _) = OBSTACLES.get(usize::try_from(place).ok()?)?;
        Some(why.replace("{}", &what))
    }))
}
