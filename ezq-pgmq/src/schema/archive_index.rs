//! The indexes by which an archive is searched for an event.

use ezq_core::Result;
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::schema::lock::LOCK_KEY;
use crate::sql::{self, archive};

/// An archive up to this size is indexed by a statement that blocks writes to it.
const SMALL: i64 = 32 * 1024 * 1024;

/// Creates the indexes of a small archive.
pub(crate) async fn create_on_small(queue: &QueueName, control: &Dedicated) -> Result<()> {
    let indexed = call!(control, |connection| index_small(connection, queue))?;
    indexed.map_err(|failure| error::of(failure, control.place()))
}

/// The statements with which an administrator indexes an archive. They index a small one at once.
/// For a larger one, which would block acknowledgements, they contain a comment with what to run by
/// hand.
pub(super) fn script(queue: &QueueName) -> String {
    let statements = [
        archive::create_index(queue),
        archive::create_codec_index(queue),
    ];
    let by_hand = statements
        .each_ref()
        .map(|statement| concurrently(statement));
    format!(
        "do $ezq$ begin\n\
         if exists (select from pg_catalog.pg_class where oid = '{}'::regclass and relkind = 'r' \
         and pg_catalog.pg_table_size(oid) <= {SMALL}) then\n{};\nend if;\nend $ezq$;\n\
         -- A larger archive is indexed without holding up acknowledgements, outside of a transaction:\n\
         -- {};\n-- {};\n",
        archive::table(queue),
        statements.join(";\n"),
        by_hand[0],
        by_hand[1],
    )
}

fn concurrently(create: &str) -> String {
    create.replacen("create index", "create index concurrently", 1)
}

// Building an index blocks acknowledgements, but not for long on a small archive.
async fn index_small(connection: &mut PgConnection, queue: &QueueName) -> Result<(), sqlx::Error> {
    let found: Option<(bool, bool)> = sqlx::query_as(
        "SELECT to_regclass('pgmq.' || quote_ident($2)) IS NOT NULL AND to_regclass('pgmq.' || quote_ident($4)) IS NOT NULL,
                pg_table_size(oid) <= $3
         FROM pg_catalog.pg_class WHERE oid = to_regclass('pgmq.' || quote_ident('a_' || $1)) AND relkind = 'r'",
    )
    .bind(queue.as_str().to_owned())
    .bind(archive::index(queue))
    .bind(SMALL)
    .bind(archive::codec_index(queue))
    .fetch_optional(&mut *connection)
    .await?;

    let statements = [
        archive::create_index(queue),
        archive::create_codec_index(queue),
    ];
    match found {
        Some((false, true)) => {}
        Some((false, false)) => {
            let by_hand = statements
                .map(|statement| concurrently(&statement))
                .join(";\n");
            let by_hand = format!("{}{by_hand};", sql::PIN);
            ezq_core::private::warn!(%queue, %by_hand, "the archive is too large to be indexed now: run `by_hand`");
            return Ok(());
        }
        // The index exists, or the archive is partitioned, which is its owner's concern.
        _ => return Ok(()),
    }

    let mut tx = connection.begin().await?;
    sqlx::query("SET LOCAL lock_timeout = '1s'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK_KEY)
        .execute(&mut *tx)
        .await?;

    for statement in statements {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *tx)
            .await?;
    }

    tx.commit().await
}
