//! Table names and the expressions that several statements share.
//!
//! A [`QueueName`] has no capital letters, quotes, backslashes or stars: it is quoted where it is part
//! of an identifier, and can stand in a string or a comment as it is.
//!
//! Statements that run in the application's sessions (publishing, `Tx`, the inbox) meet its search
//! path. The server looks into `pg_catalog` first, so a function or operator that is there for
//! exactly the given types is found whatever others define; one that takes its arguments only after
//! a conversion, or takes any type, loses to an exact one elsewhere. So functions are qualified; but
//! for `unnest` of several arrays, which the parser itself resolves. Operators are used on the
//! types they are defined for: `->>` on `text`, not on an untyped literal, which might be `jsonb` as
//! well; `float8 * interval`, not `bigint * interval`. A role whose path puts another schema before
//! `pg_catalog` trusts who may create there.

pub(crate) mod archive;
pub(crate) mod keys;
pub(crate) mod units;

use ezq_core::{End, Event, Interrupt, QueueName};

/// What every script for an administrator begins with: whatever it calls and creates means the
/// server's own functions and operators, and nobody's who may create in the administrator's path.
pub(crate) const PIN: &str =
    "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);\n";

/// Begins a transaction of ezq's own: its statements rely on each row being judged as it is now.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The table of a queue.
pub(crate) fn table(queue: &QueueName) -> String {
    in_pgmq(&format!("q_{queue}"))
}

/// Something of PGMQ's schema.
pub(crate) fn in_pgmq(name: &str) -> String {
    format!("pgmq.{}", identifier(name))
}

/// A name that was made of a queue's, as an identifier: quoted only where it must be, so that most
/// statements read as one would write them.
pub(crate) fn identifier(name: &str) -> String {
    let needs_none = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.bytes().all(needs_none) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// A name as an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table of a queue's dead letters.
pub(crate) fn dead_table(queue: &QueueName) -> String {
    in_pgmq(&format!("q_{}", queue.dead_letters()))
}

/// `headers` as an object: NULL is none, and what is no object goes along under a key of its own.
pub(crate) fn headers_object(headers: &str) -> String {
    format!(
        "CASE coalesce(pg_catalog.jsonb_typeof({headers}), 'null') \
           WHEN 'null' THEN '{{}}'::jsonb \
           WHEN 'object' THEN {headers} \
           ELSE pg_catalog.jsonb_build_object('ezq-original-headers', {headers}) END"
    )
}

/// A time as Rust can hold it: Postgres' calendar is longer, and knows infinity.
pub(crate) fn bounded(time: &str) -> String {
    format!("least(greatest({time}, '0001-01-01 00:00Z'), '9999-12-31 00:00Z'::timestamptz)")
}

/// When a row was first stored, as a header that tells of a death has it, or else the row itself.
/// Anyone may write headers: what is no time is none, and fails nothing. The second form is a time
/// without a fraction.
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

/// Whether a message is an event that is ezq's own, such as `End`.
pub(crate) fn is_control(message: &str) -> String {
    let names = [End::TYPE, Interrupt::TYPE].into_iter();
    let names = names
        .chain(End::ALIASES.iter().copied())
        .chain(Interrupt::ALIASES.iter().copied());
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    let event_type = plain_type(message);
    format!("(coalesce({event_type}, '') IN ({}))", names.join(", "))
}

/// The name of a message's type, in either form.
fn plain_type(message: &str) -> String {
    format!(
        "({message} ->> CASE WHEN {message} ? 'specversion'::text THEN 'type' ELSE '_type' END)"
    )
}

/// The name of a message's type, which stands in its headers where a codec wrote the body.
pub(crate) fn event_type(message: &str, headers: &str) -> String {
    let (plain, beside) = (
        plain_type(message),
        format!("{headers} ->> 'ce-type'::text"),
    );
    format!(
        "CASE WHEN {headers} ? 'ezq-codec'::text THEN {beside} ELSE coalesce({plain}, {beside}) END"
    )
}

/// Whether a message's headers tell its id, and its body does not. The index over an archive's ids
/// holds what has the first of these.
pub(crate) const ID_BESIDE: &str = "headers ? 'ce-id'::text \
    AND (headers ? 'ezq-codec'::text OR NOT message ?| array['specversion', '_type'])";

/// How many settled deliveries `headers` count. Anything but a whole number counts as none.
pub(crate) fn returned(headers: &str) -> String {
    format!(
        "CASE WHEN ({headers} -> 'ezq-returned'::text)::text ~ '^[0-9]{{1,9}}$' \
           THEN ({headers} ->> 'ezq-returned'::text)::bigint ELSE 0 END"
    )
}

/// The number of settled deliveries that `headers` count, and one more, with those it covers.
pub(crate) fn returned_once_more(headers: &str, covers: &str) -> String {
    format!(
        "pg_catalog.jsonb_build_object('ezq-returned', 1 + {covers} + {})",
        returned(headers)
    )
}
