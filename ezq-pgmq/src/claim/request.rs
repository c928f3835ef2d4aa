//! The claim of a queue: one statement that leases what is due, and one that tells when something
//! will be.
//!
//! The claim reads the index on `vt` from its front, or from a [cursor](crate::claim::cursor). It
//! skips rows that others have locked, and counts the delivery. Rows arrive in any order and are
//! sorted here. Each row is read by itself: malformed headers concern their message and fail no
//! batch.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Utc};
use ezq_core::engine::{Delivery, LeaseRequest, Position, Receipt};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row};

use crate::message::headers;
use crate::message::receipts::{self, fence};
use crate::schema::queues::Shape;
use crate::sql::leases::{self, Sign};
use crate::sql::units::micros;
use crate::sql::{self, keys};

/// A lease request in the database's units.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) table: String,
    pub(crate) shape: Shape,
    pub(crate) max: i64,
    pub(crate) keys: i64,
    pub(crate) ttl_us: i64,
    pub(crate) grace_us: i64,
    /// The sign of its leases.
    pub(crate) sign: Option<Sign>,
    /// Whether it reads body and headers of what it claims.
    pub(crate) reads: bool,
    /// Whether `table` is one partition of the queue.
    pub(crate) is_of_partition: bool,
    before: Option<(DateTime<Utc>, i64)>,
    after: Option<(Option<DateTime<Utc>>, i64)>,
}

impl Claim {
    pub(crate) fn is_bounded(&self) -> bool {
        self.before.is_some()
    }

    /// The place behind which to claim: a time, of which `None` is the earliest, and an id.
    pub(crate) fn after(&self) -> Option<(Option<DateTime<Utc>>, i64)> {
        self.after
    }

    pub(crate) fn new(request: &LeaseRequest, shape: Shape, grace: Option<Duration>) -> Self {
        // Whole milliseconds, rounded up, at least one.
        let millis = request.ttl.as_nanos().div_ceil(1_000_000).max(1);
        let ttl = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let grace = grace.unwrap_or_else(|| restart_grace(ttl));

        // PGMQ has no text ids: nothing is before one at the same instant.
        let id = |position: &Position| position.message_id.as_number().unwrap_or(i64::MIN);
        let before = request
            .before
            .as_ref()
            .map(|position| (position.due, id(position)));
        let after = request.after.as_ref().map(|position| {
            // No message is due before the year 1.
            let due = Some(position.due).filter(|due| due.year() >= 1);
            (due, id(position))
        });

        Self {
            table: sql::table(&request.queue),
            shape,
            max: i64::try_from(request.max.max(1)).unwrap_or(i64::MAX),
            keys: i64::try_from(request.keys.max(1)).unwrap_or(i64::MAX),
            ttl_us: micros(ttl),
            grace_us: micros(grace),
            sign: None,
            reads: true,
            is_of_partition: false,
            before,
            after,
        }
    }

    /// The same claim on one partition, for what is still wanted beside `batch`.
    pub(crate) fn of_partition(&self, table: String, batch: &Batch) -> Self {
        Self {
            table,
            max: self.max - batch.count(),
            keys: (self.keys - batch.keys()).max(1),
            is_of_partition: true,
            ..self.clone()
        }
    }

    /// Claims from a queue that has no keys, or no indexes for them: what is due at `from` or
    /// later.
    pub(crate) async fn run(
        &self,
        connection: &mut PgConnection,
        from: Option<DateTime<Utc>>,
    ) -> Result<Batch, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.statement()))
            .bind(self.grace_us)
            .bind(self.max)
            .bind(self.ttl_us)
            .bind(from);
        let rows = self.bind_bounds(query).fetch_all(&mut *connection).await?;
        let mut batch = Batch::default();

        for row in &rows {
            batch.push(row)?;
        }

        batch.sort();
        batch.made_at = batch.claimed.iter().map(|one| one.delivery.leased_at).min();
        if batch.claimed.is_empty() {
            let statement = AssertSqlSafe(self.next_due_statement());
            let query = sqlx::query(statement).bind(self.grace_us).bind(from);
            let next = self.next_due(connection, query).await?;
            batch.next_due = next.wait;
            batch.made_at = Some(next.asked_at);
        }

        Ok(batch)
    }

    /// Binds the places that bound the claim, as far as there are any.
    fn bind_bounds<'q>(&self, query: Query<'q>) -> Query<'q> {
        let query = match self.after {
            Some((due, id)) => query.bind(due).bind(id),
            None => query,
        };
        self.bind_before(query)
    }

    /// Binds the place before which to claim, if there is one.
    pub(crate) fn bind_before<'q>(&self, query: Query<'q>) -> Query<'q> {
        match self.before {
            Some((due, id)) => query.bind(due).bind(id),
            None => query,
        }
    }

    /// How long until something can be claimed. Locked rows do not count: their holder decides.
    pub(crate) async fn next_due(
        &self,
        connection: &mut PgConnection,
        query: Query<'_>,
    ) -> Result<NextDue, sqlx::Error> {
        let row = self.bind_bounds(query).fetch_one(connection).await?;
        let wait_us: Option<i64> = row.try_get("wait_us")?;
        Ok(NextDue {
            wait: wait_us.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0))),
            asked_at: row.try_get("asked_at")?,
        })
    }

    /// Whether anything is due before the position, leased or not.
    pub(crate) async fn is_held_up(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        let table = &self.table;
        let before = self.before_condition("c", 1);
        let statement = format!(
            "SELECT EXISTS (SELECT FROM {table} c WHERE c.vt <= pg_catalog.statement_timestamp(){before})"
        );
        let query = self.bind_before(sqlx::query(AssertSqlSafe(statement)));
        query.fetch_one(connection).await?.try_get(0)
    }

    pub(crate) fn statement(&self) -> String {
        let free = keys::is_free(&self.table);
        let condition = format!("{free} AND c.vt >= coalesce($4, '-infinity')");
        let picked = self.pick(&condition, "$2", 5);
        format!("WITH picked AS ({picked}) {}", self.update())
    }

    /// Locks rows that are due and meet a condition, the oldest first.
    pub(crate) fn pick(&self, condition: &str, limit: &str, first: u8) -> String {
        let rested = self.rested("c");
        let bounds = self.bounds_condition("c", first);
        let table = &self.table;
        let due = format!(
            "FROM {table} c
             WHERE c.vt <= pg_catalog.statement_timestamp() AND {condition} AND {rested}{bounds}"
        );

        if self.after.is_none() {
            return format!(
                "SELECT c.msg_id, c.vt {due} ORDER BY c.vt LIMIT {limit} FOR UPDATE SKIP LOCKED"
            );
        }

        // Where places bound the claim, messages with the same due time are ordered by id. Only
        // rows up to the due time of the last wanted row are sorted.
        format!(
            "SELECT c.msg_id, c.vt {due}
               AND c.vt <= coalesce((SELECT c.vt {due} ORDER BY c.vt LIMIT 1 OFFSET {limit} - 1), 'infinity')
             ORDER BY c.vt, c.msg_id LIMIT {limit} FOR UPDATE SKIP LOCKED"
        )
    }

    /// Leases the rows of `picked`, and returns all that a delivery is made of.
    pub(crate) fn update(&self) -> String {
        let Self { table, .. } = self;
        let end = leases::end("$3", self.sign);
        let fence = fence("q");
        let key = keys::hash("q");

        // One visit of the index for all rows. Their due times before the update are found by the
        // place of their ids: a join would look up each row by itself.
        let was_due = "(ARRAY(SELECT vt FROM picked ORDER BY msg_id))\
                       [pg_catalog.width_bucket(q.msg_id, ARRAY(SELECT msg_id FROM picked ORDER BY msg_id))]";
        let due = sql::bounded(was_due);
        let enqueued_at = sql::bounded("q.enqueued_at");
        let last_read = if self.shape.last_read {
            ", last_read_at = pg_catalog.clock_timestamp()"
        } else {
            ""
        };

        // A message that cannot be read may have the highest read count there is.
        let (read_ct, body, headers) = match self.reads {
            true => ("q.read_ct + 1", "q.message::text", "q.headers::text"),
            false => (
                "least(q.read_ct, 2147483646) + 1",
                "NULL::text",
                "NULL::text",
            ),
        };

        format!(
            "UPDATE {table} q
             SET read_ct = {read_ct}, vt = {end}{last_read}
             WHERE q.msg_id = ANY (ARRAY(SELECT msg_id FROM picked))
             RETURNING q.msg_id, q.read_ct, {fence} AS fence, q.tableoid::bigint AS rel, {due} AS due,
                       {enqueued_at} AS enqueued_at, pg_catalog.clock_timestamp() AS leased_at,
                       {body} AS body, {headers} AS headers, {key} AS key"
        )
    }

    fn next_due_statement(&self) -> String {
        let free = keys::is_free(&self.table);
        let condition = format!("{free} AND c.vt >= coalesce($2, '-infinity')");
        let later = format!(
            "SELECT c.vt FROM {} c WHERE c.vt > pg_catalog.statement_timestamp(){}
             ORDER BY c.vt LIMIT 1",
            self.table,
            self.bounds_condition("c", 3)
        );
        self.waiting_time(&condition, &later, 3)
    }

    /// How long until the earliest of three times: now, if something that meets the condition
    /// became due since the claim; the time of `later`; the end of the grace, if something waits
    /// for it.
    pub(crate) fn waiting_time(&self, condition: &str, later: &str, first: u8) -> String {
        let rested = self.rested("c");
        let waits = self.waits_for_holder("c");
        let before = self.bounds_condition("c", first);
        let table = &self.table;

        // Locking finds what became due since the claim.
        format!(
            "WITH missed AS (
               SELECT pg_catalog.statement_timestamp() AS at FROM {table} c
               WHERE c.vt <= pg_catalog.statement_timestamp() AND {condition} AND {rested}{before}
               ORDER BY c.vt LIMIT 1 FOR UPDATE SKIP LOCKED)
             SELECT CASE WHEN next.at IS NOT NULL THEN pg_catalog.ceil(1000000 * extract(epoch FROM
               least(greatest(next.at, pg_catalog.statement_timestamp()), pg_catalog.statement_timestamp() + interval '1 year')
               - pg_catalog.statement_timestamp()))::bigint END AS wait_us,
               pg_catalog.statement_timestamp() AS asked_at
             FROM (SELECT least(
               (SELECT at FROM missed),
               ({later}),
               CASE WHEN {GRACE_END} > pg_catalog.statement_timestamp() AND EXISTS (
                 SELECT FROM {table} c WHERE c.vt <= pg_catalog.statement_timestamp() AND {waits}{before})
               THEN {GRACE_END} END
             ) AS at) next"
        )
    }

    /// After a restart of the server, messages that were leased before are left to their holders
    /// for a while.
    pub(crate) fn rested(&self, row: &str) -> String {
        let waits = self.waits_for_holder(row);
        format!("(NOT ({waits}) OR {GRACE_END} <= pg_catalog.statement_timestamp())")
    }

    fn waits_for_holder(&self, row: &str) -> String {
        let read = format!("{row}.read_ct > 0");
        if self.shape.last_read {
            format!(
                "{read} AND coalesce({row}.last_read_at < pg_catalog.pg_postmaster_start_time(), true)"
            )
        } else {
            read
        }
    }

    /// The condition that a row is between the places of [`bind_bounds`](Self::bind_bounds).
    fn bounds_condition(&self, row: &str, first: u8) -> String {
        if self.after.is_none() {
            return self.before_condition(row, first);
        }
        let before = self.before_condition(row, first + 2);
        // The index is read from the first half on.
        let due = format!("coalesce(${first}::timestamptz, '-infinity')");
        format!(
            " AND {row}.vt >= {due} AND ({row}.vt, {row}.msg_id) > ({due}, ${}){before}",
            first + 1
        )
    }

    pub(crate) fn before_condition(&self, row: &str, first: u8) -> String {
        match self.before {
            Some(_) => format!(" AND ({row}.vt, {row}.msg_id) < (${first}, ${})", first + 1),
            None => String::new(),
        }
    }
}

/// What a claim leased.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) claimed: Vec<Claimed>,
    pub(crate) next_due: Option<Duration>,
    /// When it was claimed, by the database's clock, if the claim tells.
    pub(crate) made_at: Option<DateTime<Utc>>,
    /// It did not look at all that may be due.
    pub(crate) is_partial: bool,
}

/// How long until something can be claimed, if anything ever can.
pub(crate) struct NextDue {
    pub(crate) wait: Option<Duration>,
    asked_at: DateTime<Utc>,
}

/// A delivery, and the hash of its ordering key.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) delivery: Delivery,
    pub(crate) key: Option<i64>,
}

impl Batch {
    pub(crate) fn push(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        self.claimed.push(Claimed {
            delivery: delivery(row)?,
            key: row.try_get("key")?,
        });
        Ok(())
    }

    /// When the last message was due, if the claim is full.
    pub(crate) fn last_of(&self, max: usize) -> Option<DateTime<Utc>> {
        let last = self.claimed.last().filter(|_| self.claimed.len() >= max)?;
        Some(last.delivery.due)
    }

    pub(crate) fn sort(&mut self) {
        self.claimed
            .sort_by_key(|claimed| claimed.delivery.position());
    }
}

pub(crate) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// For how long after a restart of the server messages are left to those who held them.
pub(crate) fn restart_grace(lease: Duration) -> Duration {
    (lease / 2).max(Duration::from_secs(2))
}

/// The end of the grace after a restart of the server. A start in the future is no start: the clock
/// was ahead then, and was set back.
const GRACE_END: &str = "(CASE WHEN pg_catalog.pg_postmaster_start_time() <= pg_catalog.statement_timestamp() \
      THEN pg_catalog.pg_postmaster_start_time() + $1::float8 * interval '1 us' \
      ELSE '-infinity' END)";

/// The delivery in a row that [`Claim::update`] returns.
pub(crate) fn delivery(row: &PgRow) -> Result<Delivery, sqlx::Error> {
    let read_ct: i32 = row.try_get("read_ct")?;
    let due: DateTime<Utc> = row.try_get("due")?;
    let stored_at = row.try_get("enqueued_at")?;
    let id = receipts::dated(row.try_get("msg_id")?, stored_at);
    let headers = headers::read(row.try_get("headers")?);
    let enqueued_at = receipts::first_stored(&headers).unwrap_or(stored_at);

    let token = receipts::token(row.try_get("fence")?, row.try_get("rel")?, due);

    // Another client may store NULL.
    let body = row
        .try_get::<Option<String>, _>("body")?
        .unwrap_or_else(|| "null".to_owned());

    let mut delivery = Delivery::new(Receipt::new(id, token), body, headers, enqueued_at);
    delivery.deliveries = u32::try_from(read_ct).unwrap_or(0);
    delivery.due = due;
    delivery.leased_at = row.try_get("leased_at")?;
    Ok(delivery)
}

/// Body and headers of a message.
pub(crate) async fn read(
    connection: &mut PgConnection,
    queue: &QueueName,
    id: Option<i64>,
) -> Result<Option<(String, Headers)>, sqlx::Error> {
    let statement = format!(
        "SELECT message::text, headers::text FROM {} WHERE msg_id = $1",
        sql::table(queue)
    );
    let query = sqlx::query_as::<_, (Option<String>, Option<String>)>(AssertSqlSafe(statement));
    let found = query.bind(id).fetch_optional(connection).await?;
    Ok(found.map(|(body, headers)| {
        let body = body.unwrap_or_else(|| "null".to_owned());
        (body, headers::read(headers))
    }))
}
