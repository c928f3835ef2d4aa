//! What keeps dead rows from being removed: the oldest transaction id that somebody may still look at.
//!
//! Vacuum removes a row version once no transaction can see it any more. The *horizon* is the oldest
//! transaction id that sessions of this database, prepared transactions, replication slots and standbys hold
//! on to. As long as it stands still, a second vacuum removes nothing that the first one left.
//!
//! A slot's `catalog_xmin` is left out: it holds back rows of the server's catalogue only.

use std::fmt;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::sql::units::micros;

/// The oldest holder that this role sees.
///
/// Of another role's session, only `pg_read_all_stats` sees since when its transaction runs. The sender of a
/// standby is in no database, but has a role. Sessions that vacuum hold nothing back.
///
/// Many snapshots hold the id of one transaction that has written. So of equals, that one comes first, and
/// then the oldest.
const OLDEST: &str = "
    SELECT h.kind, h.name, h.role, h.application, h.xmin::text AS xmin, h.since::text AS since,
           CASE WHEN h.since IS NULL THEN age(h.xmin) >= $2
                ELSE h.since <= clock_timestamp() - $1 * interval '1 us' END AS is_old
    FROM (
      SELECT CASE WHEN a.datname IS NULL AND a.usename IS NOT NULL THEN 'standby'
                  ELSE 'session' END AS kind,
             a.pid::text AS name, coalesce(a.usename::text, a.backend_type, '') AS role,
             coalesce(a.application_name, '') AS application, x.xmin, a.xact_start AS since,
             a.backend_xid IS NULL AS only_looks
      FROM pg_catalog.pg_stat_activity a
      CROSS JOIN LATERAL (
        SELECT v.xmin FROM (VALUES (a.backend_xid), (a.backend_xmin)) AS v (xmin)
        WHERE v.xmin IS NOT NULL ORDER BY age(v.xmin) DESC LIMIT 1) x
      WHERE (a.datname = current_database() OR a.datname IS NULL) AND a.pid <> pg_backend_pid()
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = a.pid)
      UNION ALL
      SELECT 'prepared', p.gid::text, p.owner::text, '', p.transaction, p.prepared, false
      FROM pg_catalog.pg_prepared_xacts p WHERE p.database = current_database()
      UNION ALL
      SELECT CASE WHEN s.active THEN 'read slot' ELSE 'slot' END, s.slot_name::text, '', '', s.xmin,
             NULL::timestamptz, false
      FROM pg_catalog.pg_replication_slots s WHERE s.xmin IS NOT NULL) h
    ORDER BY age(h.xmin) DESC, h.only_looks, h.since NULLS FIRST LIMIT 1";

/// Up to where rows may be removed.
#[derive(Debug, Clone)]
pub(crate) struct Horizon {
    /// The transaction id, as text. Two of them are compared for equality only.
    pub(crate) xmin: String,
    /// Who holds it, if that is known and old enough to matter.
    pub(crate) holder: Option<Holder>,
}

/// What holds the horizon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    kind: Kind,
    /// A process id, or the name of a prepared transaction or a slot.
    name: String,
    role: String,
    application: String,
    since: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Session,
    /// A standby that reports what it reads (`hot_standby_feedback`).
    Standby,
    Prepared,
    /// A slot that nobody reads at present.
    Slot,
    /// One that a standby reads, and reports what it reads.
    ReadSlot,
}

/// Asks for the horizon. A session or a prepared transaction is named once it is `old`, and what has no
/// time, once it is so many transactions behind: a standby always is, by a few.
pub(crate) async fn oldest(
    connection: &mut PgConnection,
    (old, behind): (Duration, u32),
) -> Result<Option<Horizon>, sqlx::Error> {
    let row = sqlx::query(OLDEST)
        .bind(micros(old))
        .bind(i64::from(behind))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(Horizon::read).transpose()
}

impl Horizon {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let kind = match row.try_get("kind")? {
            "prepared" => Kind::Prepared,
            "slot" => Kind::Slot,
            "read slot" => Kind::ReadSlot,
            "standby" => Kind::Standby,
            _ => Kind::Session,
        };
        let holder = Holder {
            kind,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            application: row.try_get("application")?,
            since: row.try_get("since")?,
        };
        let is_old: bool = row.try_get("is_old")?;
        Ok(Self {
            xmin: row.try_get("xmin")?,
            holder: is_old.then_some(holder),
        })
    }
}

impl Holder {
    /// Whether it is known since when it holds.
    pub(crate) fn has_time(&self) -> bool {
        self.since.is_some()
    }

    /// What ends it.
    pub(crate) fn remedy(&self) -> String {
        let quoted = self.name.replace('\'', "''");
        match self.kind {
            Kind::Session => format!(
                "end its transaction there, or the session with `select \
                 pg_catalog.pg_terminate_backend({quoted})`"
            ),
            Kind::Standby | Kind::ReadSlot => {
                "end the long query on the standby, or set `hot_standby_feedback = off` there"
                    .into()
            }
            Kind::Prepared => format!(
                "ask its coordinator, then run `rollback prepared '{quoted}'` or `commit prepared \
                 '{quoted}'`"
            ),
            Kind::Slot => format!(
                "start its reader again, or run `select \
                 pg_catalog.pg_drop_replication_slot('{quoted}')` if that is gone for good"
            ),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            role,
            application,
            ..
        } = self;
        match self.kind {
            Kind::Session => write!(
                f,
                "a transaction of the session {name} (`{role}`, application `{application}`)"
            )?,
            Kind::Standby => write!(f, "the standby `{application}` of the session {name}")?,
            Kind::Prepared => write!(f, "the prepared transaction `{name}` of `{role}`")?,
            Kind::Slot => write!(f, "the replication slot `{name}`, which nobody reads")?,
            Kind::ReadSlot => write!(f, "the reader of the replication slot `{name}`")?,
        }
        match &self.since {
            Some(since) => write!(f, ", since {since}"),
            None => Ok(()),
        }
    }
}
