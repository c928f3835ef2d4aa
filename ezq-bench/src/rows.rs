//! The table that handlers with a transaction write to, one row for each event.

use ezq::prelude::*;
use ezq::sqlx::{AssertSqlSafe, query, query_as};
use serde::Deserialize;

use crate::check::check;
use crate::error::Result;
use crate::payload::Payload;

/// The table of that name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows(pub(crate) &'static str);

impl Rows {
    /// Creates the table, or empties it.
    pub(crate) async fn create(self, ezq: &Ezq) -> Result<()> {
        for sql in [
            format!("create table if not exists {} (n bigint not null)", self.0),
            format!("truncate {}", self.0),
        ] {
            query(AssertSqlSafe(sql)).execute(ezq.pool()).await?;
        }
        Ok(())
    }

    /// Drops the table.
    ///
    /// # Errors
    /// If it does not hold exactly one row for each event.
    pub(crate) async fn check_and_drop(self, ezq: &Ezq, events: usize) -> Result<()> {
        // Both: a double and a missing row would cancel out in the count.
        let sql = format!("select count(*), count(distinct n) from {}", self.0);
        let (rows, distinct): (i64, i64) =
            query_as(AssertSqlSafe(sql)).fetch_one(ezq.pool()).await?;
        check("the number of rows", rows.unsigned_abs(), events)?;
        check(
            "the number of events with a row",
            distinct.unsigned_abs(),
            events,
        )?;
        query(AssertSqlSafe(format!("drop table {}", self.0)))
            .execute(ezq.pool())
            .await?;
        Ok(())
    }
}

/// The part of a body that a loop without ezq reads.
#[derive(Debug, Deserialize)]
struct Body {
    data: Payload,
}

/// The number of the event in a body.
pub(crate) fn number(body: &str) -> Result<i64> {
    Ok(serde_json::from_str::<Body>(body)?.data.number())
}
