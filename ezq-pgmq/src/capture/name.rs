//! The name of a captured table, as users write it.

use ezq_core::{Error, ErrorKind};
use sqlx::postgres::PgConnection;

use crate::connection::connector::PINNED;
use crate::message::encoding::Encoding;

/// The table of a name, found by the role's own search path; ezq's sessions have another one.
pub(super) async fn resolved(
    connection: &mut PgConnection,
    name: &str,
    encoding: Encoding,
) -> Result<Option<i64>, sqlx::Error> {
    // No table has such a name.
    if !encoding.may_hold(name) {
        return Ok(None);
    }
    sqlx::raw_sql("RESET search_path")
        .execute(&mut *connection)
        .await?;
    let oid = sqlx::query_scalar("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid::bigint")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql(PINNED).execute(connection).await?;
    Ok(oid)
}

pub(super) fn absent(name: &str) -> Error {
    let message = format!(
        "there is no table `{name}`: write it as SQL does, with `\"` around capital letters and the schema \
         before it, such as `public.\"Users\"`"
    );
    Error::new(ErrorKind::Configuration, message)
}
