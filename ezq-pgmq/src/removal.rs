//! How acknowledged messages leave a queue: the statements that settlements and transactions share.

use ezq_core::QueueName;

use crate::receipts::{self, ONLY_LOCKED};
use crate::{sql, trail};

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
        let Some((columns, kept)) = self.keep(queue) else {
            return format!(
                "WITH locked AS ({locked}) {delete} RETURNING l.msg_id, l.fence, l.rel, l.at"
            );
        };
        format!(
            "WITH locked AS ({locked}),
             gone AS ({delete} RETURNING {columns}, l.fence, l.rel, l.at),
             kept AS ({kept})
             SELECT msg_id, fence, rel, at FROM gone"
        )
    }

    /// Takes messages `q` out under a condition on them, without a receipt; it answers with
    /// `answer`, in which `{rel}` is the table.
    pub(crate) fn take(self, queue: &QueueName, condition: &str, answer: &str) -> String {
        let table = sql::table(queue);
        let delete = format!("DELETE FROM {table} q WHERE {condition}");
        let Some((columns, kept)) = self.keep(queue) else {
            return format!("{delete} RETURNING {}", answer.replace("{rel}", "q.tableoid::bigint"));
        };
        let answer = answer.replace("{rel}", "q.rel");
        format!(
            "WITH gone AS ({delete} RETURNING {columns}, q.tableoid::bigint AS rel),
             kept AS ({kept})
             SELECT {answer} FROM gone q"
        )
    }

    /// What is kept of what is removed, if anything is: the columns `q` that `gone` has, and the
    /// statement that keeps them.
    fn keep(self, queue: &QueueName) -> Option<(String, String)> {
        match self {
            Self::Delete => None,
            Self::Archive { last_read } => Some((columns(last_read, "q."), kept(queue, last_read))),
            Self::Trail => Some((columns(false, "q."), trail::record(queue))),
        }
    }
}

fn columns(last_read: bool, of: &str) -> String {
    let mut columns = vec!["msg_id", "read_ct", "enqueued_at", "vt", "message", "headers"];
    columns.extend(last_read.then_some("last_read_at"));
    let columns: Vec<String> = columns.into_iter().map(|name| format!("{of}{name}")).collect();
    columns.join(", ")
}

/// Archives the rows of `gone`. One whose id the archive holds already, since ids began anew, must
/// not keep anything from being acknowledged.
fn kept(queue: &QueueName, last_read: bool) -> String {
    let (archive, is_control) = (sql::archive_table(queue), sql::is_control("message"));
    let columns = columns(last_read, "");
    format!(
        "INSERT INTO {archive} ({columns}, archived_at)
         SELECT {columns}, pg_catalog.clock_timestamp() FROM gone WHERE NOT {is_control} ORDER BY msg_id
         ON CONFLICT DO NOTHING"
    )
}
