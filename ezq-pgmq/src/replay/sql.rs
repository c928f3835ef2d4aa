//! The statements of a replay.

use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::message::headers::REDRIVEN;

use crate::sql::{self, archive};

/// A replay's row, locked. It waits for another run of the same replay.
pub(super) const LOCKED: &str = "SELECT definition::text, position, last_id, began_at, open FROM ezq.replays WHERE name = $1 FOR UPDATE";

pub(super) const LIST: &str = "
    SELECT name, queue, target, position >= last_id AS is_finished, handed_over, began_at, moved_at
    FROM ezq.replays WHERE $1::text IS NULL OR name = $1 ORDER BY began_at, name";

pub(super) const HAS_ARCHIVE: &str =
    "SELECT to_regclass('pgmq.' || quote_ident('a_' || $1)) IS NOT NULL";

/// Begins a replay and fixes what it selects: the archive up to its newest id, without what
/// transactions archive that are open now. Their numbers are kept as `xmin` shows them, as the
/// lower half.
pub(super) fn begin(queue: &QueueName) -> String {
    format!(
        "INSERT INTO ezq.replays (name, queue, target, definition, last_id, began_at, open)
         SELECT $1, $2, $3, ($4::text)::jsonb, coalesce(max(msg_id), 0), statement_timestamp(),
                ARRAY(SELECT open::text::bigint % (1::bigint << 32)
                      FROM pg_snapshot_xip(pg_current_snapshot()) open)
         FROM {}
         ON CONFLICT DO NOTHING",
        archive::table(queue)
    )
}

/// The condition that a replay selects an archived message:
/// - `$1` the position, `$2` the last id, `$3` when the replay began
/// - `$4` and `$5` times of publication, `$6` regular expressions for types, `$7` what the data
///   contains
/// - `$8` the transactions that were open when it began
///
/// Copies whose original is in this archive are left out.
fn meant(queue: &QueueName) -> String {
    let event_type = sql::event_type("q.message", "q.headers");
    let published_at = sql::first_stored("q", REDRIVEN);
    format!(
        "q.msg_id > $1 AND q.msg_id <= $2 AND q.archived_at <= $3
         AND q.xmin::text::bigint <> ALL ($8::bigint[])
         AND ($4::timestamptz IS NULL OR {published_at} >= $4)
         AND ($5::timestamptz IS NULL OR {published_at} < $5)
         AND ($6::text[] IS NULL OR '.' || ({event_type}) ~ ANY ($6))
         AND ($7::text IS NULL OR
              CASE WHEN q.message ? 'specversion' THEN q.message -> 'data' ELSE q.message END
                @> ($7::text)::jsonb)
         AND coalesce(q.headers #>> '{{ezq-replay,queue}}', '') <> '{queue}'"
    )
}

/// Counts the messages that a replay selects.
pub(super) fn count(queue: &QueueName) -> String {
    format!(
        "SELECT count(*) FROM {} q WHERE {}",
        archive::table(queue),
        meant(queue)
    )
}

/// Replays what is selected of the next `$9` messages under the name `$10`, and records the new
/// position: one statement, so both are done or neither. Returns whether it was the last page, and
/// how many were replayed.
pub(super) fn step(queue: &QueueName, target: &QueueName) -> String {
    let headers = sql::headers_object("q.headers");
    format!(
        "WITH page AS MATERIALIZED (
           SELECT q.msg_id, q.xmin, q.enqueued_at, q.archived_at, q.message, q.headers FROM {archive} q
           WHERE q.msg_id > $1 AND q.msg_id <= $2
           ORDER BY q.msg_id LIMIT $9),
         base AS MATERIALIZED (SELECT clock_timestamp() AS now),
         stored AS (
           INSERT INTO {target} (vt, message, headers)
           SELECT base.now + (row_number() OVER (ORDER BY q.msg_id) - 1) * interval '1 us', q.message,
             (SELECT coalesce(jsonb_object_agg(key, value), '{{}}') FROM jsonb_each({headers})
              WHERE key NOT IN ('ezq-dead', 'ezq-returned', 'ezq-redriven', 'ezq-replay')
                AND NOT starts_with(key, 'ezq-h:'))
             || jsonb_build_object('ezq-replay', jsonb_build_object(
                  'name', $10::text, 'at', base.now, 'queue', '{queue}', 'id', {number})
                || CASE jsonb_typeof(q.headers -> 'ezq-replay') WHEN 'object' THEN jsonb_strip_nulls(
                     jsonb_build_object('queue', q.headers #> '{{ezq-replay,queue}}',
                                        'id', q.headers #> '{{ezq-replay,id}}')) ELSE '{{}}' END)
           FROM base, page q WHERE {meant} ORDER BY q.msg_id
           RETURNING 1),
         seen AS (SELECT count(*) AS count, max(msg_id) AS last FROM page),
         moved AS (
           UPDATE ezq.replays SET moved_at = clock_timestamp(),
             position = CASE WHEN seen.count < $9 THEN $2 ELSE seen.last END,
             handed_over = handed_over + (SELECT count(*) FROM stored)
           FROM seen WHERE name = $10)
         SELECT seen.count < $9 AS is_finished, (SELECT count(*) FROM stored) AS count FROM seen",
        number = archive::number("q.msg_id"),
        archive = archive::table(queue),
        target = sql::table(target),
        meant = meant(queue)
    )
}

/// A regular expression for `.` and the name of a type, as `ezq.pattern_regex` builds it.
pub(super) fn regex(pattern: &Pattern) -> String {
    let segments: String = pattern.as_str().split('.').map(segment_regex).collect();
    format!("^{segments}$")
}

fn segment_regex(segment: &str) -> String {
    match segment {
        "*" => "[.][^.]*".to_owned(),
        "#" => "([.][^.]*)*".to_owned(),
        name => {
            let mut regex = String::from("[.]");
            for c in name.chars() {
                if !(c.is_alphanumeric() || c == '_') {
                    regex.push('\\');
                }
                regex.push(c);
            }
            regex
        }
    }
}
