//! Counting statements by `pg_stat_statements`, on a server on which nothing else runs.

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::sqlx::{Connection as _, PgConnection, query, query_scalar};

use crate::error::Result;

/// A server that counts what everyone sends, and the connection that asks for the count.
pub(crate) struct CountingServer {
    pub(crate) server: EmbeddedPostgres,
    pub(crate) observer: PgConnection,
}

/// Starts such a server.
pub(crate) async fn counting_server() -> Result<CountingServer> {
    let server = EmbeddedPostgres::builder()
        .durable(true)
        .setting("shared_preload_libraries", "pg_stat_statements")
        // A text that is forgotten would take its count with it. Each queue has statements of its own.
        .setting("pg_stat_statements.max", "50000")
        .start()
        .await?;

    let mut observer = PgConnection::connect(&server.url()).await?;
    query("create extension pg_stat_statements")
        .execute(&mut observer)
        .await?;
    Ok(CountingServer { server, observer })
}

/// How many statements were sent so far. The statement that asks leaves itself out.
pub(crate) async fn count_statements(observer: &mut PgConnection) -> Result<i64> {
    let sql = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements
               where query not like '%pg_stat_statements%'";
    Ok(query_scalar(sql).fetch_one(observer).await?)
}
