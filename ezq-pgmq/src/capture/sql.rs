//! The statements of a capture: one function for each table, and its four triggers.
//!
//! The catalogue holds the whole capture: the function's comment has the options, and the triggers
//! lead from the table to the function. So a dump includes it, and dropping the table removes it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::sql::quoted;

const BODY: &str = include_str!("function.sql");
/// Rises with every change of the function or its triggers. Where processes have different
/// versions, the newer one's stays.
pub(super) const VERSION: u64 = 3;
/// The field of the function's comment that holds the version, beside the options.
pub(super) const VERSION_FIELD: &str = "version";

/// What the catalogue says of a table.
pub(super) const TABLE: &str = "
    SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
           c.relkind::text AS kind, c.relispartition AS is_partition,
           c.relpersistence = 't' AS is_temporary,
           EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE c.oid IN (inhrelid, inhparent)) AS inherits,
           has_table_privilege(c.oid, 'TRIGGER') AND has_table_privilege(c.oid, 'SELECT') AS is_ours,
           ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
                 WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                 ORDER BY attnum) AS columns
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = $1::bigint::oid";

/// Every capture, or that of one table.
pub(super) const CAPTURES: &str = "
    SELECT n.nspname::text AS schema, c.relname::text AS name, p.proname::text AS function,
           p.prosrc AS source, obj_description(p.oid, 'pg_proc') AS config,
           array_agg(t.tgname::text) AS triggers, bool_and(t.tgenabled IN ('O', 'A')) AS is_enabled,
           ARRAY(SELECT CASE i.inhparent WHEN c.oid THEN i.inhrelid ELSE i.inhparent END::regclass::text
                 FROM pg_catalog.pg_inherits i
                 WHERE c.oid IN (i.inhparent, i.inhrelid) ORDER BY 1) AS uncovered
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE p.pronamespace = to_regnamespace('ezq') AND p.proname LIKE 'capture\\_%'
      AND t.tgname LIKE 'ezq\\_capture\\_%'
      AND ($1::bigint IS NULL OR t.tgrelid::bigint = $1)
    GROUP BY n.nspname, c.relname, c.oid, p.oid ORDER BY 1, 2, 3";

/// Functions whose tables were dropped.
pub(super) const ORPHANS: &str = "
    SELECT p.proname::text FROM pg_catalog.pg_proc p
    WHERE p.pronamespace = to_regnamespace('ezq') AND p.proname LIKE 'capture\\_%'
      AND p.prorettype = 'trigger'::regtype AND pg_has_role(p.proowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid = p.oid)";

/// The role whose code would run with the rights of this one, if this one is a superuser and that
/// one is not. Such code is that of an insert into the table `$1`, or, with `$2`, of the function
/// that lists subscribers.
pub(super) const LENT: &str = "
    SELECT o.rolname::text
    FROM pg_catalog.pg_roles me
    CROSS JOIN LATERAL (
      SELECT relowner FROM pg_catalog.pg_class WHERE oid = to_regclass($1)
      UNION ALL
      SELECT p.proowner FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
      WHERE t.tgrelid = to_regclass($1) AND NOT t.tgisinternal
      UNION ALL
      SELECT proowner FROM pg_catalog.pg_proc
      WHERE $2 AND oid = to_regprocedure('ezq.recipients(text)')) owner(id)
    JOIN pg_catalog.pg_roles o ON o.oid = owner.id
    WHERE me.rolname = current_user AND me.rolsuper AND NOT o.rolsuper
    LIMIT 1";

/// Each trigger: its name, when it fires, and which versions of the rows it sees.
pub(super) const TRIGGERS: [(&str, &str, &str); 4] = [
    (
        "ezq_capture_insert",
        "insert",
        "referencing new table as ezq_new",
    ),
    (
        "ezq_capture_update",
        "update",
        "referencing old table as ezq_old new table as ezq_new",
    ),
    (
        "ezq_capture_delete",
        "delete",
        "referencing old table as ezq_old",
    ),
    ("ezq_capture_truncate", "truncate", ""),
];

/// The source of the function.
pub(super) fn body(config: &Value) -> String {
    BODY.replace("{config}", &literal(&config.to_string()))
}

/// Creates or replaces the function. It runs with its creator's rights, and only its creator may
/// call it, so another role's table cannot. All settings that affect how values are written are
/// fixed.
pub(super) fn function(name: &str, config: &Value) -> String {
    let name = quoted(name);
    let body = literal(&body(config));
    // The comment is what later captures are compared with.
    let mut comment = config.clone();
    comment[VERSION_FIELD] = VERSION.into();
    let comment = literal(&comment.to_string());

    format!(
        "create or replace function ezq.{name}() returns trigger
         language plpgsql security definer
         set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO'
         set intervalstyle = 'postgres' set extra_float_digits = '1' set bytea_output = 'hex'
         set lc_monetary = 'C' set quote_all_identifiers = off set xmlbinary = 'base64'
         set array_nulls = on set transform_null_equals = off set row_security = off
         as {body};
         comment on function ezq.{name}() is {comment};
         revoke all on function ezq.{name}() from public;\n"
    )
}

/// Creates the triggers that are missing.
pub(super) fn triggers(schema: &str, table: &str, function: &str, have: &[String]) -> String {
    let schema = quoted(schema);
    let table = quoted(table);
    let function = quoted(function);
    let mut statements = String::new();

    for (name, when, shown) in TRIGGERS {
        if !have.iter().any(|have| have == name) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                statements,
                "create trigger {name} after {when} on {schema}.{table} {shown} \
                 for each statement execute function ezq.{function}();"
            );
        }
    }

    statements
}

/// Removes the function, and with it its triggers.
pub(super) fn drop(function: &str) -> String {
    format!("drop function if exists ezq.{}() cascade", quoted(function))
}

/// A string literal that means the same whatever the session's setting for backslashes.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
