//! The claim of a queue with ordering keys: one statement, whose plan reads the rows that it claims
//! and a bounded number of other rows and keys.
//!
//! The rendered statements stand whole in `rendered/`, and a test keeps them up to date. They have
//! nine parts, in this order:
//!
//! 1. `plain` locks what is due and has no key, up to its share of the batch.
//! 2. `room` is how many messages with a key the batch can still take.
//! 3. `walk` finds keys whose first message can be claimed. From the front it is fed by `due`, a
//!    window over what is due first; from key to key it probes the index once for each.
//! 4. `each` is the equal share of every such key.
//! 5. `runs` takes of each key its first message and those that follow it, up to its share.
//! 6. `held` locks them. A row that changed since it was read is not locked.
//! 7. `whole` numbers what was locked of each key, so that a gap shows.
//! 8. `picked` is `plain`, and of each key what stands before the first gap.
//! 9. `claimed` leases `picked` and returns all that a delivery is made of.

use crate::claim::Claim;
use crate::sql::keys::{hash, is_keyed, is_plain, leased};

/// The most keys that one statement probes.
const PROBES: i64 = 1000;
/// How many messages the window over what is due first has.
const WINDOW: &str = "least(1000, greatest(200, 4 * least($2, $6)))";
/// How many later messages one statement reads to find when something can be claimed.
const LATER: i64 = 100;
/// The number of the position's first parameter.
const BEFORE: u8 = 7;
/// With so many keys a statement has enough.
const ENOUGH: &str = "least($6, (SELECT n FROM room))";

/// Where a claim looks for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Among the messages that are due first. This finds all keys of a short queue.
    Due,
    /// From key to key, one index probe each. This passes a key, or messages without one, that fill
    /// the front of a long queue.
    Keys,
}

impl Claim {
    /// The claim. It answers with at least one row, which tells how far it read.
    ///
    /// Parameters:
    /// - `$1` the grace after a restart, `$2` the most messages, `$3` the lease
    /// - `$4` the most messages without a key
    /// - `$5` the most messages of one key beyond its equal share, `$6` the most keys
    /// - then, as far as there are any, the position before which to claim
    /// - last, from key to key, the key to start behind
    pub(super) fn keyed_statement(&self, source: Source) -> String {
        let table = &self.table;
        let plain = self.pick(&is_plain("c"), "$4", BEFORE);
        let (walk, looked) = match source {
            Source::Due => self.walk_due(),
            Source::Keys => self.walk_keys(),
        };

        let runs = self.runs();
        let update = self.update();

        // `held` looks rows up by id: with `vt =` the plan may read all that are due at one time.
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

    /// `due` and `walk`: the keys in the window over what is due first, with their first messages, as
    /// far as these can be claimed. Then the query that tells how far it read.
    fn walk_due(&self) -> (String, String) {
        let table = &self.table;
        let before = self.before_condition("d", BEFORE);
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

    /// `walk`: the keys behind one, with their first messages, until there are enough. Then the query
    /// that tells how far it read.
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
        let rested = self.rested("h");
        let before = self.before_condition("h", BEFORE);
        let hash = hash("h");
        let keyed = is_keyed("h");
        let leased = leased(table, "f.key", true, "");

        format!(
            "SELECT f.key, f.msg_id, f.is_ready AND NOT {leased} AS ok
             FROM (SELECT {hash} AS key, h.msg_id,
                          h.vt <= statement_timestamp() AND {rested}{before} AS is_ready
                   FROM {table} h WHERE {keyed} AND {condition}
                   ORDER BY {hash}, h.msg_id LIMIT 1 OFFSET 0) f OFFSET 0"
        )
    }

    /// What is claimed of each key: its first message and, where there is room, those that follow it.
    ///
    /// A run ends before a message that cannot be claimed, or whose due time is earlier than the one
    /// before it. Its length is the key's equal share, or as many as the key has in the window, but
    /// then at most half of the batch. First messages come before all others, older ones first.
    fn runs(&self) -> String {
        let table = &self.table;
        let rested = self.rested("q");
        let before = self.before_condition("q", BEFORE);
        let hash = hash("q");
        let keyed = is_keyed("q");

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

    /// When something can be claimed. `$1` is the grace, `$2` the time of the claim, then the position.
    ///
    /// Of a key only the first message counts, and leased ones, whose leases end. Where none of the
    /// messages that were read counts, the last one stands for all behind it.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ezq_core::engine::LeaseRequest;
    use ezq_core::message::QueueName;

    use super::*;
    use crate::schema::queues::Shape;
    use crate::sql::leases::Sign;
    use crate::sql::rendered::assert_rendered;

    fn claim() -> Claim {
        let request = LeaseRequest::new(
            QueueName::new("orders").unwrap(),
            100,
            Duration::from_secs(30),
        )
        .keys(64);
        let shape = Shape {
            last_read: true,
            keyed: true,
        };
        let mut claim = Claim::new(&request, shape, None);
        claim.sign = Sign::new(77);
        claim
    }

    #[test]
    fn the_claim_among_what_is_due_first_is_as_rendered() {
        assert_rendered(
            "claim/keys/rendered/claim_due.sql",
            &claim().keyed_statement(Source::Due),
        );
    }

    #[test]
    fn the_claim_from_key_to_key_is_as_rendered() {
        assert_rendered(
            "claim/keys/rendered/claim_keys.sql",
            &claim().keyed_statement(Source::Keys),
        );
    }

    #[test]
    fn the_time_of_the_next_claim_is_as_rendered() {
        assert_rendered(
            "claim/keys/rendered/next_due.sql",
            &claim().keyed_next_due(),
        );
    }
}
