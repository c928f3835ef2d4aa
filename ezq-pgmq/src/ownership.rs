//! Refusing schemas that belong to a stranger.
//!
//! Who owns `pgmq` or `ezq` decides what its functions and triggers do, and they run with the rights
//! of whoever uses them. Any role that may create in the database could take these names first. So
//! they must belong to the application's role or one that it is a member of, to a superuser or to the
//! database's owner.

use ezq_core::{Error, ErrorKind};
use sqlx::postgres::PgConnection;

use crate::config::Place;

// A superuser is a member of every role, as `pg_has_role` has it: those that were granted count.
const STRANGERS: &str = "
    WITH RECURSIVE mine(oid) AS (
      SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user
      UNION
      SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN mine ON m.member = mine.oid)
    SELECT n.nspname::text, o.rolname::text
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
    WHERE n.nspname IN ('pgmq', 'ezq') AND NOT o.rolsuper AND o.rolname <> 'pg_database_owner'
      AND n.nspowner NOT IN (SELECT oid FROM mine)
      AND n.nspowner <> (SELECT datdba FROM pg_catalog.pg_database
                         WHERE datname = current_database())
    ORDER BY 1 LIMIT 1";

/// A schema and the stranger that it belongs to.
pub(crate) struct Stranger {
    schema: String,
    owner: String,
}

/// Looks whether one of the schemas belongs to a stranger.
pub(crate) async fn stranger(
    connection: &mut PgConnection,
) -> Result<Option<Stranger>, sqlx::Error> {
    let found: Option<(String, String)> =
        sqlx::query_as(STRANGERS).fetch_optional(connection).await?;
    Ok(found.map(|(schema, owner)| Stranger { schema, owner }))
}

impl Stranger {
    /// The error that names the owner, and says what to do.
    pub(crate) fn refused(&self, place: &Place) -> Error {
        let (Self { schema, owner }, Place { role, database, .. }) = (self, place);
        let text = format!(
            "the schema `{schema}` in the database `{database}` belongs to the role `{owner}`, whose \
             functions would run with the rights of `{role}`: if that role is trusted, `GRANT \
             \"{owner}\" TO \"{role}\"` or give the schema to the database's owner; if not, find out \
             who it is, and drop the schema"
        );
        Error::new(ErrorKind::Permission, text)
    }
}
