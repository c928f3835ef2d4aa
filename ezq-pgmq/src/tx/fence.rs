//! The fence of a transaction. It settles under the receipts of its deliveries, and only if it
//! still is the transaction that was begun.

use std::time::Instant;

use ezq_core::Result;
use ezq_core::engine::Finished;
use ezq_core::message::Progress;
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use super::context::TxContext;
use crate::connection::dedicated::limit;
use crate::message::receipts::{self, Key, ONLY_LOCKED, RECEIPTS};
use crate::retention::removal::Removal;
use crate::sql;

/// One delivery that a transaction settles, under the key of its receipt.
pub(super) struct Fenced {
    key: Key,
    mark: Option<Progress>,
}

impl Fenced {
    /// # Errors
    /// [`InvalidReceipt`](ezq_core::ErrorKind::InvalidReceipt) if another engine made the receipt.
    pub(super) fn new(finished: Finished) -> Result<Self> {
        let (key, _due) = receipts::read(&finished.receipt)?;
        let mark = finished.mark;
        Ok(Self { key, mark })
    }
}

impl TxContext {
    /// Merges marks into messages and acknowledges others, if every receipt still holds. Messages
    /// that were claimed inside the transaction need neither.
    pub(super) async fn fence(
        &self,
        connection: &mut PgConnection,
        finished: &[Fenced],
        removal: Removal,
    ) -> Result<bool, sqlx::Error> {
        let (marked, acknowledged): (Vec<_>, Vec<_>) =
            finished.iter().partition(|one| one.mark.is_some());
        let table = sql::table(&self.queue);
        let plan = self.engine.plans().number();
        let mut held = 0;
        let begun = Instant::now();

        if !marked.is_empty() {
            let from = "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], \
                        $6::jsonb[]) AS w(id, fence, rel, at, marks)";
            let locked = receipts::locked(&table, ", w.marks", &in_unit(from), "");
            let object = sql::headers_object("q.headers");
            let statement = format!(
                "/* plan {plan} */ WITH locked AS ({locked})
                 UPDATE {table} q SET headers = ({object}) || l.marks
                 FROM locked l WHERE {ONLY_LOCKED}"
            );
            let marks = marked.iter().filter_map(|one| one.mark.as_ref());
            let encoding = self.engine.encoding();

            let marks: Vec<Value> = marks
                .map(|mark| Value::Object(encoding.marks(mark)))
                .collect();
            let query = self.with_receipts(statement, &marked).bind(marks);
            held += query.execute(&mut *connection).await?.rows_affected();
        }

        // Most transactions settle one message, for which no arrays are needed.
        if let ([one], Removal::Delete) = (&acknowledged[..], removal) {
            held += self.delete(&mut *connection, one).await?;
        } else if !acknowledged.is_empty() {
            let acknowledge = removal.acknowledge(&self.queue, &in_unit(RECEIPTS), "");
            let statement = format!("/* plan {plan} */ {acknowledge}");
            let query = self.with_receipts(statement, &acknowledged);
            held += query.execute(&mut *connection).await?.rows_affected();
        }

        // A slow statement may have a plan from when the table was empty.
        self.engine.plans().took(begun.elapsed(), finished.len());
        Ok(held == finished.len() as u64)
    }

    /// Deletes one message, by a statement whose plan is cached.
    async fn delete(
        &self,
        connection: &mut PgConnection,
        one: &Fenced,
    ) -> Result<u64, sqlx::Error> {
        let statement = format!(
            "/* plan {} */ DELETE FROM {} q WHERE q.msg_id = $1 AND {}
             AND pg_catalog.current_setting('ezq.unit', true) = $5",
            self.engine.plans().number(),
            sql::table(&self.queue),
            receipts::carries("q", "$2", "$3", "$4")
        );

        let (id, fence, rel, at) = one.key;
        let query = sqlx::query(AssertSqlSafe(statement))
            .bind(id)
            .bind(fence)
            .bind(rel);
        let query = query.bind(at).bind(&self.name);
        Ok(query.execute(connection).await?.rows_affected())
    }

    /// Whether every receipt still holds after the roll-back. A row that is locked counts as
    /// another worker's.
    pub(super) async fn is_held(&self, finished: &[Fenced]) -> Result<bool> {
        let table = sql::table(&self.queue);
        let locked = receipts::locked(&table, "", RECEIPTS, " SKIP LOCKED");
        let plan = self.engine.plans().number();
        let statement = format!("/* plan {plan} */ SELECT pg_catalog.count(*) FROM ({locked}) l");
        let asked = async {
            let mut connection = self.engine.pool_leases().acquire().await?;
            let keys = finished.iter().map(|one| one.key);
            let query = receipts::with_keys(statement, keys);
            let row = query.fetch_one(&mut *connection).await;
            connection.end(row)?.try_get::<i64, _>(0)
        };

        let held = limit(self.engine.patience(), asked).await;
        let held = held.map_err(|failure| self.engine.failed(failure, &self.queue))?;
        Ok(usize::try_from(held).is_ok_and(|held| held == finished.len()))
    }

    /// Binds receipts and the unit's name: `$1` to `$5`.
    fn with_receipts<'q>(
        &self,
        statement: String,
        finished: &[&Fenced],
    ) -> Query<'q, Postgres, PgArguments> {
        let keys = finished.iter().map(|one| one.key);
        receipts::with_keys(statement, keys).bind(self.name.clone())
    }
}

/// A table expression that is empty if the transaction is not the one that was begun.
fn in_unit(from: &str) -> String {
    format!("{from} WHERE pg_catalog.current_setting('ezq.unit', true) = $5")
}
