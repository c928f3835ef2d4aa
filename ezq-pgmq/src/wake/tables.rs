//! The tables in which operators' orders are. Each is made when something is written there for the first
//! time, so it may be absent: then there is no order.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::schema::foreign_owner;

/// What is known of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Table {
    /// It was absent when it was last looked for, or was not looked for.
    #[default]
    Absent,
    Readable,
    /// It may not be read, or belongs to a role that is not trusted.
    Refused,
}

/// What is known of each table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) controls: Table,
    pub(super) cancellations: Table,
}

/// Whether the tables can be read; NULL without one. The catalogue needs no right.
const PROBE: &str = "
    SELECT (SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c
            WHERE c.oid = pg_catalog.to_regclass('ezq.controls')) AS controls,
           (SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c
            WHERE c.oid = pg_catalog.to_regclass('ezq.cancellations')) AS cancellations";

impl Tables {
    /// Looks for the tables, unless both were found already.
    pub(super) async fn probe(self, connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        if self.controls == Table::Readable && self.cancellations == Table::Readable {
            return Ok(self);
        }

        let row = sqlx::query(PROBE).fetch_one(&mut *connection).await?;
        let mut found = Self {
            controls: Table::of(row.try_get("controls")?),
            cancellations: Table::of(row.try_get("cancellations")?),
        };
        let is_new = |before, now| before != Table::Readable && now == Table::Readable;
        // Reading a view runs its owner's code with the reader's rights.
        if (is_new(self.controls, found.controls)
            || is_new(self.cancellations, found.cancellations))
            && foreign_owner(connection).await?.is_some()
        {
            found = Self {
                controls: Table::Refused,
                cancellations: Table::Refused,
            };
        }
        Ok(found)
    }
}

impl Table {
    fn of(is_readable: Option<bool>) -> Self {
        match is_readable {
            None => Self::Absent,
            Some(false) => Self::Refused,
            Some(true) => Self::Readable,
        }
    }
}
