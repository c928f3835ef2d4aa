//! How acknowledged messages leave a queue: the statements that settlements and transactions share.

use ezq_core::QueueName;

use crate::message::receipts::{self, ONLY_LOCKED};
use crate::retention::trail;
use crate::sql::archive::{self, LIFE, LIVES};
use crate::sql::{self};

/// How an acknowledged message leaves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Delete,
    /// Into PGMQ's archive table, as it is; but for control events, which are ezq's own.
    Archive {
        /// Both tables have the column `last_read_at`.
        last_read: bool,
    },
    /// Deleted, and told of in `ezq.trail`; but for control events.
    Trail,
}

impl Removal {
    /// Acknowledges what still carries its receipt, of the table expression `receipts` for
    /// [`receipts::locked`], which `wait`s as it is told. It answers with the key of each.
    pub(crate) fn acknowledge(self, queue: &QueueName, receipts: &str, wait: &str) -> String {
        let table = sql::table(queue);
        let locked = receipts::locked(&table, "", receipts, wait);
        let delete = format!("DELETE FROM {table} q USING locked l WHERE {ONLY_LOCKED}");
        let Some((columns, keep)) = self.keep(queue) else {
            return format!(
                "WITH locked AS ({locked}) {delete} RETURNING l.msg_id, l.fence, l.rel, l.at"
            );
        };
        format!(
            "WITH locked AS ({locked}),
             gone AS ({delete} RETURNING {columns}, l.fence, l.rel, l.at),
             {keep}
             SELECT msg_id, fence, rel, at FROM gone"
        )
    }

    /// Takes messages `q` out under a condition on them, without a receipt; it answers with
    /// `answer`, in which `{rel}` is the table.
    pub(crate) fn take(self, queue: &QueueName, condition: &str, answer: &str) -> String {
        let table = sql::table(queue);
        let delete = format!("DELETE FROM {table} q WHERE {condition}");
        let Some((columns, keep)) = self.keep(queue) else {
            return format!(
                "{delete} RETURNING {}",
                answer.replace("{rel}", "q.tableoid::bigint")
            );
        };
        let answer = answer.replace("{rel}", "q.rel");
        format!(
            "WITH gone AS ({delete} RETURNING {columns}, q.tableoid::bigint AS rel),
             {keep}
             SELECT {answer} FROM gone q"
        )
    }

    /// What is kept of what is removed, if anything is: the columns `q` that `gone` has, and the
    /// common table expressions that keep them.
    fn keep(self, queue: &QueueName) -> Option<(String, String)> {
        let (last_read, keep) = match self {
            Self::Delete => return None,
            Self::Archive { last_read } => (last_read, archive(queue, last_read)),
            Self::Trail => (false, format!("kept AS ({})", trail::record(queue))),
        };
        Some((format!("q.msg_id, {}", columns(last_read, "q.")), keep))
    }
}

/// The columns of a message beside its number.
fn columns(last_read: bool, of: &str) -> String {
    let mut columns = vec!["read_ct", "enqueued_at", "vt", "message", "headers"];
    columns.extend(last_read.then_some("last_read_at"));
    let columns: Vec<String> = columns
        .into_iter()
        .map(|name| format!("{of}{name}"))
        .collect();
    columns.join(", ")
}

/// Archives the rows of `gone`.
///
/// The archive of a queue that was dropped may have been kept, or ids have begun anew: then it holds
/// another message under a number. That one stays, and the new one goes under the next number that is
/// free of [`number`], `number` + 2^40 and so on. What the archive holds already, stored at the same
/// time, is the same message.
///
/// Numbers that are taken are looked for by subqueries that no plan makes a join of: a join might
/// read the whole archive, and there are next to none.
fn archive(queue: &QueueName, last_read: bool) -> String {
    let (archive, is_control) = (archive::table(queue), sql::is_control("message"));
    let columns = columns(last_read, "");
    let of_gone = self::columns(last_read, "g.");
    format!(
        "kept AS (
         INSERT INTO {archive} (msg_id, {columns}, archived_at)
         SELECT msg_id, {columns}, pg_catalog.clock_timestamp() FROM gone WHERE NOT {is_control}
         ORDER BY msg_id
         ON CONFLICT DO NOTHING RETURNING msg_id),
         moved AS (
         INSERT INTO {archive} (msg_id, {columns}, archived_at)
         SELECT (SELECT g.msg_id + life.n * {LIFE}
                 FROM (SELECT pg_catalog.generate_series(1::bigint, {LIVES})) life(n)
                 WHERE (SELECT true FROM {archive} a
                        WHERE a.msg_id = g.msg_id + life.n * {LIFE} LIMIT 1) IS NULL
                 LIMIT 1), {of_gone}, pg_catalog.clock_timestamp()
         FROM gone g
         WHERE g.msg_id NOT IN (SELECT k.msg_id FROM kept k) AND NOT {is_control}
           AND coalesce((SELECT pg_catalog.bool_and(a.enqueued_at <> g.enqueued_at)
                         FROM {archive} a WHERE a.msg_id = g.msg_id), true)
         ORDER BY g.msg_id)"
    )
}
