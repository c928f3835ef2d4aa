//! A queue's archive: its table, its indexes, and the numbers that its messages have there.

use ezq_core::message::QueueName;

use crate::sql::{identifier, in_pgmq};

/// The table of a queue's archive.
pub(crate) fn table(queue: &QueueName) -> String {
    in_pgmq(&format!("a_{queue}"))
}

/// The name of the index by which events are found in a large archive.
pub(crate) fn index(queue: &QueueName) -> String {
    format!("a_{queue}_event_id_idx")
}

/// The same for events whose id is in the headers. In most archives it is empty.
pub(crate) fn codec_index(queue: &QueueName) -> String {
    format!("a_{queue}_ce_id_idx")
}

/// Creates [`codec_index`].
pub(crate) fn create_codec_index(queue: &QueueName) -> String {
    format!(
        "create index if not exists {} on {} using hash ((headers ->> 'ce-id'::text)) \
         where headers ? 'ce-id'::text",
        identifier(&codec_index(queue)),
        table(queue)
    )
}

/// Creates [`index`]. A hash index takes ids of any length; a B-tree would refuse a long one.
pub(crate) fn create_index(queue: &QueueName) -> String {
    format!(
        "create index if not exists {} on {} using hash ((message ->> 'id'::text))",
        identifier(&index(queue)),
        table(queue)
    )
}

/// The numbers of a queue are below this. In an archive, numbers from here on belong to messages
/// whose own number was taken, in steps of this: one for each time that the queue was created
/// again.
pub(crate) const LIFE: i64 = 1 << 40;
pub(crate) const LIVES: i64 = (1 << 22) - 1;

/// The number that an archived message had in its queue.
pub(crate) fn number(of: &str) -> String {
    format!("CASE WHEN {of} >= {LIFE} THEN {of} % {LIFE} ELSE {of} END")
}

/// Has a queue that was created beside its old archive continue behind the numbers in the archive.
pub(crate) fn number_behind_archive(queue: &str) -> String {
    let table = in_pgmq(&format!("q_{queue}"));
    format!(
        "SELECT pg_catalog.setval(
           pg_catalog.pg_get_serial_sequence('{table}', 'msg_id')::regclass, a.last)
         FROM (SELECT pg_catalog.max(msg_id) AS last FROM {} WHERE msg_id BETWEEN 1 AND {LIFE} - 1) a
         WHERE a.last IS NOT NULL",
        in_pgmq(&format!("a_{queue}"))
    )
}
