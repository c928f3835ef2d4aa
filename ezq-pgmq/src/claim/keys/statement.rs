//! The claim of a queue with ordering keys: one statement, whose plan reads what it claims and a
//! bounded number of rows and keys beside.

use crate::claim::Claim;
use crate::sql::keys::{hash, is_keyed, is_plain, leased};

/// How many keys one statement looks at to find what it can claim.
const PROBES: i64 = 1000;
/// How many of the messages that are due first one statement looks at for keys.
const WINDOW: &str = "least(1000, greatest(200, 4 * least($2, $6)))";
/// How many of the next times one statement looks at to find one at which something can be claimed.
const LATER: i64 = 100;
/// The first parameter of the position.
const BEFORE: u8 = 7;
/// With how many keys a statement has enough.
const ENOUGH: &str = "least($6, (SELECT n FROM room))";

/// Where a statement looks for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Among the messages that are due first: complete where there are few of them.
    Due,
    /// From key to key, one index probe each: where one key's messages, or those without a key,
    /// stand before all others.
    Keys,
}

impl Claim {
    /// `$1` the grace, `$2` how many, `$3` the lease, `$4` how many without a key, `$5` how many of
    /// one key beyond an equal part, `$6` how many keys, then the position; from key to key at last
    /// the key from which on.
    ///
    /// Answers with at least one row, which tells how far it looked.
    pub(super) fn keyed_statement(&self, source: Source) -> String {
        let table = &self.table;
        let plain = self.pick(&is_plain("c"), "$4", BEFORE);
        let (walk, looked) = match source {
            Source::Due => self.walk_due(),
            Source::Keys => self.walk_keys(),
        };
        let (runs, update) = (self.runs(), self.update());
        // A row that changed since it was seen is not locked; what follows it is not claimed. It is
        // looked up by its id: very many may be due at one time, to which `=` would lead.
        format!(
            "WITH RECURSIVE plain AS ({plain}),
             room AS (SELECT $2 - count(*) AS n FROM plain),
             {walk},
             each AS (
               SELECT (r.n + count(*) - 1) / count(*) AS n
               FROM walk w CROSS JOIN room r WHERE w.ok GROUP BY r.n),
             runs AS ({runs}),
             held AS (
               SELECT r.* FROM runs r CROSS JOIN LATERAL (
                 SELECT FROM {table} q WHERE q.msg_id = r.msg_id AND q.vt IS NOT DISTINCT FROM r.vt
                 FOR UPDATE SKIP LOCKED) l),
             whole AS (
               SELECT h.*, row_number() OVER (PARTITION BY h.place ORDER BY h.rank) AS got
               FROM held h),
             picked AS (
               SELECT msg_id, vt FROM plain
               UNION ALL SELECT msg_id, vt FROM whole WHERE got = rank),
             claimed AS ({update})
             SELECT s.reached, s.is_all, statement_timestamp() AS asked_at, c.*
             FROM ({looked}) s LEFT JOIN claimed c ON true"
        )
    }

    /// `walk`: the keys among what is due first, with their first messages, as far as these can be
    /// claimed.
    fn walk_due(&self) -> (String, String) {
        let (table, before) = (&self.table, self.before_condition("d", BEFORE));
        let head = self.head(&format!("{} = k.key", hash("h")));
        let walk = format!(
            "due AS MATERIALIZED (
               SELECT {} AS key, d.vt FROM {table} d
               WHERE d.vt <= statement_timestamp(){before} ORDER BY d.vt LIMIT {WINDOW}),
             walk AS (
               SELECT k.place, k.count, k.key, h.msg_id, h.ok
               FROM (SELECT key, count(*) AS count, row_number() OVER (ORDER BY min(vt)) AS place
                     FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY min(vt) OFFSET 0) k
               CROSS JOIN LATERAL ({head}) h
               WHERE h.ok LIMIT {ENOUGH})",
            hash("d")
        );
        let looked = format!("SELECT 0::bigint AS reached, count(*) < {WINDOW} AS is_all FROM due");
        (walk, looked)
    }

    /// `walk`: the keys from one on, with their first messages, as far as it takes to find enough.
    fn walk_keys(&self) -> (String, String) {
        let head = self.head(&format!("{} > w.key", hash("h")));
        let from = if self.is_bounded() {
            BEFORE + 2
        } else {
            BEFORE
        };
        let walk = format!(
            "walk AS (
               SELECT 0::bigint AS place, 0::bigint AS count, 0::bigint AS found, ${from}::bigint AS key,
                      NULL::bigint AS msg_id, false AS ok
               UNION ALL
               SELECT w.place + 1, 0::bigint, w.found + h.ok::int, h.key, h.msg_id, h.ok
               FROM walk w CROSS JOIN LATERAL ({head}) h
               WHERE w.place < {PROBES} AND w.found < {ENOUGH})"
        );
        let looked = format!(
            "SELECT key AS reached, place < {PROBES} AND found < {ENOUGH} AS is_all
             FROM walk ORDER BY place DESC LIMIT 1"
        );
        (walk, looked)
    }

    /// The first message of the first key that meets a condition; whether it can be claimed.
    fn head(&self, condition: &str) -> String {
        let table = &self.table;
        let (rested, before) = (self.rested("h"), self.before_condition("h", BEFORE));
        let (hash, keyed, leased) = (hash("h"), is_keyed("h"), leased(table, "f.key", true, ""));
        format!(
            "SELECT f.key, f.msg_id, f.is_ready AND NOT {leased} AS ok
             FROM (SELECT {hash} AS key, h.msg_id,
                          h.vt <= statement_timestamp() AND {rested}{before} AS is_ready
                   FROM {table} h WHERE {keyed} AND {condition}
                   ORDER BY {hash}, h.msg_id LIMIT 1 OFFSET 0) f OFFSET 0"
        )
    }

    /// What is claimed of each key: its first message and, as far as there is room for more than the
    /// first ones, those that follow it, as long as each can be claimed and its place rises: of each
    /// key an equal part, or as many as it has among what is due first, but no more than half of all
    /// then, the oldest before the others.
    fn runs(&self) -> String {
        let table = &self.table;
        let (rested, before) = (self.rested("q"), self.before_condition("q", BEFORE));
        let (hash, keyed) = (hash("q"), is_keyed("q"));
        format!(
            "SELECT w.place, m.msg_id, m.vt, m.rank
             FROM walk w CROSS JOIN LATERAL (
               SELECT x.msg_id, x.vt, row_number() OVER o AS rank,
                      bool_and(x.is_ready AND x.rises) OVER o AS ok
               FROM (SELECT y.*, coalesce(y.vt >= lag(y.vt) OVER (ORDER BY y.msg_id), true) AS rises
                     FROM (SELECT q.msg_id, q.vt,
                                  q.vt <= statement_timestamp() AND {rested}{before} AS is_ready
                           FROM {table} q
                           WHERE {keyed} AND {hash} = w.key AND q.msg_id >= w.msg_id
                           ORDER BY {hash}, q.msg_id
                           LIMIT greatest((SELECT n FROM each), least($5, w.count))) y) x
               WINDOW o AS (ORDER BY x.msg_id)) m
             WHERE w.ok AND m.ok ORDER BY m.rank > 1, m.vt, m.msg_id LIMIT (SELECT n FROM room)"
        )
    }

    /// `$1` the grace, `$2` when the claim looked, then the position. Of messages with a key only the
    /// first of each counts, and what is leased, for it ends; of very many that do not count the last
    /// that was looked at stands for all.
    pub(super) fn keyed_next_due(&self) -> String {
        let table = &self.table;
        let before = self.before_condition("c", 3);
        let first = format!(
            "NOT EXISTS (SELECT FROM {table} e WHERE {} AND {} = {} AND e.msg_id < c.msg_id)",
            is_keyed("e"),
            hash("e"),
            hash("c")
        );
        let later = format!(
            "SELECT n.vt FROM (
               SELECT c.vt, {} OR c.read_ct > 0 OR {first} AS counts, row_number() OVER () AS place
               FROM (SELECT * FROM {table} c WHERE c.vt > $2{before}
                     ORDER BY c.vt LIMIT {LATER}) c) n
             WHERE n.counts OR n.place = {LATER} ORDER BY n.vt LIMIT 1",
            is_plain("c")
        );
        self.waiting_time(&is_plain("c"), &later, 3)
    }
}
