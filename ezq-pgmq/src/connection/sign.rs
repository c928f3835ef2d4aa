//! The sign of an engine, which its leases carry and its sessions hold.
//!
//! Each session with which an engine claims, renews or settles holds an advisory lock for the sign, in
//! shared mode. The server releases it when the session ends, whatever ended it. So an engine whose sign
//! nobody holds has no session left: its process is gone, or cannot reach the database.
//!
//! A process that was stopped, or whose network was cut without notice, keeps its sessions, and is not
//! taken for gone.

use std::sync::atomic::{AtomicI32, Ordering};

use sqlx::postgres::PgConnection;
use tokio::sync::Notify;

use crate::sql::leases::Sign;

/// The first key of the advisory locks: `ezq`, as bytes. The second one is the sign.
pub(crate) const CLASS: i32 = 0x65_7a_71;

/// Has a session hold a sign. It waits for whoever examines the sign at the moment: a few milliseconds.
pub(crate) async fn hold(session: &mut PgConnection, sign: Sign) -> Result<(), sqlx::Error> {
    let hold = "SELECT pg_catalog.pg_advisory_lock_shared($1, $2)";
    let query = sqlx::query(hold).bind(CLASS).bind(sign.number());
    query.execute(session).await?;
    Ok(())
}

/// The sign of this engine, as its connections share it.
#[derive(Debug, Default)]
pub(crate) struct OwnSign {
    /// Zero until there is one.
    number: AtomicI32,
    /// A session was lost.
    lost: Notify,
}

impl OwnSign {
    /// The sign, once the engine has one.
    pub(crate) fn get(&self) -> Option<Sign> {
        Sign::new(self.number.load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, sign: Sign) {
        self.number.store(sign.number(), Ordering::Release);
    }

    /// Notes that a session was lost: the others may be lost as well.
    pub(crate) fn note_lost(&self) {
        self.lost.notify_one();
    }

    /// Waits until a session was lost.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }
}
