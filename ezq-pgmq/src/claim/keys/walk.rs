//! Claiming from a queue with indexed ordering keys: statement by statement, until one claims
//! something or every key was probed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::statement::Source;
use crate::claim::{Batch, Claim};

/// Where this engine is in its walk through a queue's keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyWalk {
    /// The next claim goes from key to key: the last claim among what is due first found few keys.
    by_key: bool,
    /// The key that the walk has reached.
    at: i64,
    /// There may be more messages both with and without a key: each kind gets its share.
    shared: bool,
    /// With room for one message only, which kind is next.
    odd: bool,
}

/// The walks by table: each partition of a queue has its own.
#[derive(Debug, Default)]
pub(crate) struct KeyWalks(Mutex<HashMap<String, KeyWalk>>);

impl KeyWalks {
    pub(crate) fn of(&self, table: &str) -> KeyWalk {
        let known = self.key_walks().get(table).copied();
        known.unwrap_or_else(|| KeyWalk {
            by_key: false,
            // A random start: a fleet must not begin at the same key.
            at: rand::random(),
            shared: false,
            odd: false,
        })
    }

    pub(crate) fn keep(&self, table: &str, walk: KeyWalk) {
        self.key_walks().insert(table.to_owned(), walk);
    }

    fn key_walks(&self) -> std::sync::MutexGuard<'_, HashMap<String, KeyWalk>> {
        // Sizes of walks are hints: the next claim corrects them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a statement read.
struct Extent {
    reached: i64,
    is_all: bool,
    asked_at: DateTime<Utc>,
}

impl Claim {
    /// Claims from a queue whose keys have indexes.
    pub(crate) async fn run_keyed(
        &self,
        connection: &mut PgConnection,
        walk: &mut KeyWalk,
    ) -> Result<Batch, sqlx::Error> {
        let mut plain = walk.share(self.max);
        let mut asked_at = None;
        if !walk.by_key {
            let (batch, looked) = self.look(connection, Source::Due, plain, walk).await?;
            asked_at = Some(looked.asked_at);

            // A few keys fill the front of the queue. The keys behind must not wait until these are
            // done: they get every other claim.
            let wanted = self.keys.min(self.max);
            walk.by_key = !looked.is_all && batch.keys().saturating_mul(2) < wanted;
            if !batch.claimed.is_empty() {
                return Ok(batch);
            }

            if looked.is_all && plain > 0 {
                return self.nothing(connection, looked.asked_at).await;
            }

            if looked.is_all {
                plain = self.max;
            }
        }

        // Once around all keys: from here to the end, then from the first one.
        let begun = walk.at;
        let mut around = begun == i64::MIN;
        loop {
            let (batch, looked) = self.look(connection, Source::Keys, plain, walk).await?;
            let asked_at = *asked_at.get_or_insert(looked.asked_at);
            let done = around && (looked.is_all || looked.reached >= begun);
            around |= looked.is_all;
            walk.at = if looked.is_all {
                i64::MIN
            } else {
                looked.reached
            };

            if !batch.claimed.is_empty() {
                walk.by_key = batch.keys() == 0;
                return Ok(batch);
            }

            if done && plain > 0 {
                walk.by_key = false;
                return self.nothing(connection, asked_at).await;
            }

            plain = self.max;
        }
    }

    /// Nothing can be claimed. Finds when something can.
    async fn nothing(
        &self,
        connection: &mut PgConnection,
        asked_at: DateTime<Utc>,
    ) -> Result<Batch, sqlx::Error> {
        // One partition says nothing about the others.
        if self.is_of_partition {
            return Ok(Batch::default());
        }

        let query = sqlx::query(AssertSqlSafe(self.keyed_next_due()))
            .bind(self.grace_us)
            .bind(asked_at);
        let next = self.next_due(connection, query).await?;
        Ok(Batch {
            next_due: next.wait,
            ..Batch::default()
        })
    }

    async fn look(
        &self,
        connection: &mut PgConnection,
        source: Source,
        plain: i64,
        walk: &mut KeyWalk,
    ) -> Result<(Batch, Extent), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.keyed_statement(source)))
            .bind(self.grace_us)
            .bind(self.max)
            .bind(self.ttl_us)
            .bind(plain)
            .bind((self.max / 2).max(1))
            .bind(self.keys);
        let mut query = self.bind_before(query);
        if source == Source::Keys {
            query = query.bind(walk.at);
        }

        let rows = query.fetch_all(connection).await?;
        let mut batch = Batch::default();
        let mut looked = None;

        for row in &rows {
            if looked.is_none() {
                let reached = row.try_get("reached")?;
                let is_all = row.try_get("is_all")?;
                looked = Some(Extent {
                    reached,
                    is_all,
                    asked_at: row.try_get("asked_at")?,
                });
            }

            if row.try_get::<Option<i64>, _>("msg_id")?.is_some() {
                batch.push(row)?;
            }
        }

        batch.sort();
        walk.shared = batch.keys() > 0 || plain == self.max && batch.count() == plain;
        Ok((batch, looked.ok_or(sqlx::Error::RowNotFound)?))
    }
}

impl KeyWalk {
    /// The most messages without a key for the next claim: half, if there are others.
    fn share(&mut self, max: i64) -> i64 {
        if !self.shared {
            return max;
        }
        self.odd = !self.odd;
        max / 2 + i64::from(self.odd) * (max % 2)
    }
}

impl Batch {
    pub(crate) fn count(&self) -> i64 {
        i64::try_from(self.claimed.len()).unwrap_or(i64::MAX)
    }

    /// How many different keys were claimed.
    pub(crate) fn keys(&self) -> i64 {
        let keys: HashSet<i64> = self
            .claimed
            .iter()
            .filter_map(|claimed| claimed.key)
            .collect();
        i64::try_from(keys.len()).unwrap_or(i64::MAX)
    }
}
