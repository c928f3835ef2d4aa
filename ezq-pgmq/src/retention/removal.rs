//! How acknowledged messages leave a queue: the statements that settlements and transactions share.

use ezq_core::message::QueueName;

use crate::message::receipts::{self, ONLY_LOCKED};
use crate::retention::trail;
use crate::sql;
use crate::sql::archive::{self, LIFE, LIVES};

/// How an acknowledged message leaves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Delete,
    /// Moved to PGMQ's archive table. Control events are deleted.
    Archive {
        /// Both tables have the column `last_read_at`.
        last_read: bool,
    },
    /// Deleted, with a line in `ezq.trail`. Control events have none.
    Trail,
}

impl Removal {
    /// Acknowledges what still matches its receipt. `receipts` is the table expression for
    /// [`receipts::locked`], and `wait` its clause for locks. Returns the keys of what was
    /// acknowledged.
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

    /// Removes messages `q` that meet a condition, without receipts. Returns `answer`, in which
    /// `{rel}` stands for the table.
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

    /// What is kept of removed messages, if anything: the columns `q` that the CTE `gone` needs,
    /// and the CTEs that keep them.
    fn keep(self, queue: &QueueName) -> Option<(String, String)> {
        let (last_read, keep) = match self {
            Self::Delete => return None,
            Self::Archive { last_read } => (last_read, archive(queue, last_read)),
            Self::Trail => (false, format!("kept AS ({})", trail::record(queue))),
        };
        Some((format!("q.msg_id, {}", columns(last_read, "q.")), keep))
    }
}

/// The columns of a message besides its number.
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
/// The archive may be that of an earlier queue, or ids may have started again. Then the archive
/// already holds another message under a number. That message stays, and the new one gets the next
/// free number of `number` + 2^40, `number` + 2^41 and so on in steps of 2^40. A row with the same
/// number and the same time of storage is the same message.
///
/// Taken numbers are found by subqueries that no plan turns into a join: there are next to none,
/// and a join might read the whole archive.
fn archive(queue: &QueueName, last_read: bool) -> String {
    let archive = archive::table(queue);
    let is_control = sql::is_control("message");
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
