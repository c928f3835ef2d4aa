//! Names of tables, and expressions that several statements share.
//!
//! A [`QueueName`] has no capital letters, quotes, backslashes or stars. It is quoted in
//! identifiers, and can stand in a string or a comment as it is.
//!
//! Statements in the application's sessions (publishing, `Tx`, the inbox) run with its search path.
//! The server searches `pg_catalog` first, so a function or operator that is there for exactly the
//! given types always wins. One that needs a conversion, or takes any type, loses to an exact match
//! in another schema. So:
//! - Functions are qualified, except `unnest` of several arrays, which the parser resolves.
//! - Operators are used on the types that they are defined for: `->>` on `text`, not on an untyped
//!   literal, which might be `jsonb`; `float8 * interval`, not `bigint * interval`.
//!
//! A role whose path has another schema before `pg_catalog` trusts whoever may create there.

pub(crate) mod archive;
pub(crate) mod keys;
pub(crate) mod leases;
#[cfg(test)]
pub(crate) mod rendered;
pub(crate) mod units;

use ezq_core::event::{End, Event, Interrupt};
use ezq_core::message::QueueName;

/// How every script for an administrator begins. What it calls and creates is then the server's
/// own, and not that of someone who may create in the administrator's search path.
pub(crate) const PIN: &str =
    "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);\n";

/// Begins a transaction of ezq's own. Its statements rely on seeing each row as it is now.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// Begins a transaction whose statements read tables of any size by index. The planner's figures about a
/// queue are those of its last analysis, when it may have been short or almost all scheduled: by them it
/// would read and sort the whole table for one page.
pub(crate) const BEGIN_BY_INDEX: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
    SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// The table of a queue.
pub(crate) fn table(queue: &QueueName) -> String {
    in_pgmq(&format!("q_{queue}"))
}

/// The table of one partition of a queue. No queue has `--` in its name, so no other queue has this table.
/// Their number is part of the name: a claim of a process that does not know of a new number finds no
/// table, and the process looks again.
pub(crate) fn partition(queue: &QueueName, count: u32, index: u32) -> String {
    in_pgmq(&format!("q_{queue}--{count}-{index}"))
}

/// A name in PGMQ's schema.
pub(crate) fn in_pgmq(name: &str) -> String {
    format!("pgmq.{}", identifier(name))
}

/// A name that contains a queue's, as an identifier. It is quoted only if needed, to keep
/// statements readable.
pub(crate) fn identifier(name: &str) -> String {
    let needs_quotes = name
        .bytes()
        .any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    if needs_quotes {
        quoted(name)
    } else {
        name.to_owned()
    }
}

/// A name as a quoted identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table of a queue's dead letters.
pub(crate) fn dead_table(queue: &QueueName) -> String {
    in_pgmq(&format!("q_{}", queue.dead_letters()))
}

/// `headers` as an object. NULL becomes an empty one; another kind of value is kept under a key of
/// its own.
pub(crate) fn headers_object(headers: &str) -> String {
    format!(
        "CASE coalesce(pg_catalog.jsonb_typeof({headers}), 'null') \
           WHEN 'null' THEN '{{}}'::jsonb \
           WHEN 'object' THEN {headers} \
           ELSE pg_catalog.jsonb_build_object('ezq-original-headers', {headers}) END"
    )
}

/// A time in the range that Rust can hold. Postgres' calendar is longer, and has infinity.
pub(crate) fn bounded(time: &str) -> String {
    format!("least(greatest({time}, '0001-01-01 00:00Z'), '9999-12-31 00:00Z'::timestamptz)")
}

/// When a message was first stored: the time in a header about its death, or else that of the row.
/// Anyone may write headers, so an invalid time counts as none. The second form is a time without a
/// fraction.
pub(crate) fn first_stored(row: &str, header: &str) -> String {
    let time = |form: &str| {
        format!(
            r#"jsonb_path_query_first_tz({row}.headers,
               '$."{header}"."enqueued_at".datetime("{form}")', silent => true) #>> '{{}}'"#
        )
    };
    let with_fraction = time(r#"YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM"#);
    let without = time(r#"YYYY-MM-DD\"T\"HH24:MI:SSTZH:TZM"#);
    format!("coalesce(({with_fraction})::timestamptz, ({without})::timestamptz, {row}.enqueued_at)")
}

/// Whether a message is a control event of ezq, such as `End`.
pub(crate) fn is_control(message: &str) -> String {
    let names = [End::TYPE, Interrupt::TYPE].into_iter();
    let names = names
        .chain(End::ALIASES.iter().copied())
        .chain(Interrupt::ALIASES.iter().copied());
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    let event_type = plain_type(message);
    format!("(coalesce({event_type}, '') IN ({}))", names.join(", "))
}

/// The type of a message, in either form.
fn plain_type(message: &str) -> String {
    format!(
        "({message} ->> CASE WHEN {message} ? 'specversion'::text THEN 'type' ELSE '_type' END)"
    )
}

/// The type of a message. If a codec wrote the body, it is in the headers.
pub(crate) fn event_type(message: &str, headers: &str) -> String {
    let plain = plain_type(message);
    let beside = format!("{headers} ->> 'ce-type'::text");
    format!(
        "CASE WHEN {headers} ? 'ezq-codec'::text THEN {beside} ELSE coalesce({plain}, {beside}) END"
    )
}

/// Whether the headers of a message hold its id, and its body does not. The partial index over an
/// archive's ids has the first of these conditions.
pub(crate) const ID_BESIDE: &str = "headers ? 'ce-id'::text \
    AND (headers ? 'ezq-codec'::text OR NOT message ?| array['specversion', '_type'])";

/// How many settled deliveries `headers` count. Anything but a whole number counts as none.
pub(crate) fn returned(headers: &str) -> String {
    format!(
        "CASE WHEN ({headers} -> 'ezq-returned'::text)::text ~ '^[0-9]{{1,9}}$' \
           THEN ({headers} ->> 'ezq-returned'::text)::bigint ELSE 0 END"
    )
}

/// The number of settled deliveries in `headers`, plus one, plus those that the receipt covers.
pub(crate) fn returned_once_more(headers: &str, covers: &str) -> String {
    format!(
        "pg_catalog.jsonb_build_object('ezq-returned', 1 + {covers} + {})",
        returned(headers)
    )
}

/// The oids of a queue's table and of its partitions: a query with the column `oid`.
pub(crate) fn tables_of(table: &str) -> String {
    format!(
        "SELECT '{table}'::regclass::oid AS oid UNION ALL
                     SELECT i.inhrelid FROM pg_catalog.pg_inherits i
                     WHERE i.inhparent = '{table}'::regclass"
    )
}
