//! Refusing schemas, tables and functions that belong to a role that is not trusted.
//!
//! Whoever owns `pgmq` or `ezq` decides what its functions and triggers do, and they run with the
//! rights of whoever uses them. A role that may create in the database could take these names
//! first. One that may create in `ezq`, as capturing needs, could take the names of tables and
//! functions that are still to come: `create or replace` does not change a function's owner.
//!
//! So they must belong to the application's role, a role that it is a member of, a superuser, or
//! the database's owner. Functions of captures belong to whoever captured a table, and are exempt.

use ezq_core::{Error, ErrorKind};
use sqlx::postgres::PgConnection;

use crate::config::Place;

// `pg_has_role` makes a superuser a member of every role: only granted memberships count here.
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

/// A schema, table or function, and the role that owns it and is not trusted.
pub(crate) struct ForeignOwner {
    what: String,
    owner: String,
}

/// Finds something that belongs to a role that is not trusted.
pub(crate) async fn foreign_owner(
    connection: &mut PgConnection,
) -> Result<Option<ForeignOwner>, sqlx::Error> {
    let found: Option<(String, String)> = sqlx::query_as(FOREIGN_OWNERS)
        .fetch_optional(connection)
        .await?;
    Ok(found.map(|(what, owner)| ForeignOwner { what, owner }))
}

impl ForeignOwner {
    /// The error that names the owner and says what to do.
    pub(crate) fn refused(&self, place: &Place) -> Error {
        let Self { what, owner } = self;
        let Place { role, database, .. } = place;
        let text = format!(
            "the {what} in the database `{database}` belongs to the role `{owner}`, whose code would \
             run with the rights of `{role}`: if that role is trusted, `GRANT \"{owner}\" TO \
             \"{role}\"` or give it to the database's owner; if not, find out who it is, and drop it"
        );
        Error::new(ErrorKind::Permission, text)
    }
}
