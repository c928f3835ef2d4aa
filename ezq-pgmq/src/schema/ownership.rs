//! Refusing schemas, and what stands in ezq's own, that belong to a foreign.
//!
//! Who owns `pgmq` or `ezq` decides what its functions and triggers do, and they run with the rights
//! of whoever uses them. Any role that may create in the database could take these names first, and
//! one that may create in `ezq`, as capturing needs, the names of tables and functions that are still
//! to come: `create or replace` leaves a function its owner. So they must belong to the application's
//! role or one that it is a member of, to a superuser or to the database's owner. The functions of
//! captures are for whoever captures a table, and belong to these.

use ezq_core::{Error, ErrorKind};
use sqlx::postgres::PgConnection;

use crate::config::Place;

// A superuser is a member of every role, as `pg_has_role` has it: those that were granted count.
const FOREIGN_OWNERS: &str = "
    WITH RECURSIVE mine(oid) AS (
      SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user
      UNION
      SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN mine ON m.member = mine.oid)
    SELECT owned.what, o.rolname::text
    FROM (
      SELECT 'schema `' || nspname || '`', nspowner
      FROM pg_catalog.pg_namespace WHERE nspname IN ('pgmq', 'ezq')
      UNION ALL
      SELECT 'table `ezq.' || relname || '`', relowner
      FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace('ezq')
      UNION ALL
      SELECT 'function `ezq.' || proname || '`', proowner
      FROM pg_catalog.pg_proc
      WHERE pronamespace = to_regnamespace('ezq') AND proname NOT LIKE 'capture\\_%'
    ) owned(what, owner)
    JOIN pg_catalog.pg_roles o ON o.oid = owned.owner
    WHERE NOT o.rolsuper AND o.rolname <> 'pg_database_owner'
      AND owned.owner NOT IN (SELECT oid FROM mine)
      AND owned.owner <> (SELECT datdba FROM pg_catalog.pg_database
                          WHERE datname = current_database())
    ORDER BY 1 LIMIT 1";

/// A schema, table or function and the foreign that it belongs to.
pub(crate) struct ForeignOwner {
    what: String,
    owner: String,
}

/// Looks whether anything belongs to a foreign.
pub(crate) async fn foreign_owner(
    connection: &mut PgConnection,
) -> Result<Option<ForeignOwner>, sqlx::Error> {
    let found: Option<(String, String)> = sqlx::query_as(FOREIGN_OWNERS)
        .fetch_optional(connection)
        .await?;
    Ok(found.map(|(what, owner)| ForeignOwner { what, owner }))
}

impl ForeignOwner {
    /// The error that names the owner, and says what to do.
    pub(crate) fn refused(&self, place: &Place) -> Error {
        let (Self { what, owner }, Place { role, database, .. }) = (self, place);
        let text = format!(
            "the {what} in the database `{database}` belongs to the role `{owner}`, whose code would \
             run with the rights of `{role}`: if that role is trusted, `GRANT \"{owner}\" TO \
             \"{role}\"` or give it to the database's owner; if not, find out who it is, and drop it"
        );
        Error::new(ErrorKind::Permission, text)
    }
}
