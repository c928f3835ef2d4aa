//! The inbox: a record of the events that a handler has done, kept beside its effects.
//!
//! An event may be delivered again after its handler took effect: the worker dies before it
//! acknowledges, or its lease is lost. A handler whose effects are in another database than the
//! queue records the event there, in the transaction of the effects.

use std::time::Duration;

use ezq_core::handler::Context;
use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Transaction};

use crate::error::{self, missing};
use crate::schema::{self, Part};
use crate::sql::units::micros;

/// How many rows one statement of [`Inbox::forget`] removes.
const BATCH: u64 = 1000;

/// Records in a handler's own database which events it has done there.
///
/// The promise is about one handler and one event. The effects that commit together with
/// [`first`](Self::first) in one database happen once, however often and by whomever the event is
/// delivered, for as long as the row is kept. Nothing is promised for effects elsewhere (a mail, a
/// call to another service), for what the handler returns, or across two databases. A handler is
/// identified by its name: pin it with `#[on_event(name = "...")]`.
///
/// An event is identified by source and id. Events in the flat form take both from their message.
/// If a queue is dropped and created again, or after a fail-over to a standby that lags, another
/// event may get the same ones.
///
/// ```no_run
/// use ezq_core::handler::{Context, HandlerError};
/// use ezq_pgmq::Inbox;
/// use sqlx::PgPool;
/// # struct OrderPaid { order: i64, amount: i64 }
///
/// async fn book(event: OrderPaid, context: Context, ledger: PgPool) -> Result<(), HandlerError> {
///     let mut tx = ledger.begin().await?;
///     if !Inbox::first(&mut tx, &context).await? {
///         return Ok(()); // booked before; only the acknowledgement was missing
///     }
///     sqlx::query("insert into bookings (order_id, amount) values ($1, $2)")
///         .bind(event.order)
///         .bind(event.amount)
///         .execute(&mut *tx)
///         .await?;
///     tx.commit().await?;
///     Ok(())
/// }
/// ```
///
/// The table is `ezq.inbox`. Create it once with [`create`](Self::create), as at the start of the
/// program, or run what [`setup_sql`](Self::setup_sql) prints. Remove old rows with
/// [`forget`](Self::forget).
#[derive(Debug)]
pub enum Inbox {}

impl Inbox {
    /// Creates the table in this database, where it is absent. Where it exists nothing is changed,
    /// so a role without rights on the schema may call this, and many may call it at once.
    ///
    /// # Errors
    /// [`ErrorKind::Permission`] when the role may not create it, and the database's errors.
    ///
    /// # Cancel safety
    /// If the future is dropped, the table is complete or absent.
    pub async fn create(connection: &mut PgConnection) -> Result<()> {
        schema::migrate(connection, Part::Inbox)
            .await
            .map_err(failed)
    }

    /// The statements that create the table, with the grants that `role` needs, for an
    /// administrator; they can be run again. The session that runs them keeps `pg_catalog` as its
    /// search path.
    ///
    /// ```
    /// assert!(ezq_pgmq::Inbox::setup_sql(Some("app")).contains("ezq.inbox to \"app\";"));
    /// ```
    #[must_use]
    pub fn setup_sql(role: Option<&str>) -> String {
        schema::script(Part::Inbox, role)
    }

    /// Records that this handler does this event, in the transaction that holds its effects.
    /// Returns whether it is the first to. After `false` the handler must return without effect.
    ///
    /// While another transaction records the same event, this waits: for `false` if that one
    /// commits, for `true` if it rolls back. Call it before the effects, so that the wait comes
    /// first.
    ///
    /// # Errors
    /// After an error the transaction can only be rolled back.
    /// - [`ErrorKind::SchemaMissing`] without the table
    /// - [`ErrorKind::Transient`] where the transaction's isolation level is above READ COMMITTED
    ///   and another was first
    /// - the database's errors otherwise
    ///
    /// # Cancel safety
    /// As for any statement of the driver: drop the transaction as well.
    pub async fn first(tx: &mut Transaction<'_, Postgres>, context: &Context) -> Result<bool> {
        let note = format!(
            "INSERT INTO ezq.inbox (handler, source, event_id) VALUES ({}, {}, {})
             ON CONFLICT DO NOTHING",
            short("$1"),
            short("$2"),
            short("$3")
        );

        let done = sqlx::query(AssertSqlSafe(note))
            .bind(context.handler().as_str())
            .bind(context.envelope().source())
            .bind(context.event_id())
            .execute(&mut **tx)
            .await
            .map_err(failed)?;
        Ok(done.rows_affected() == 1)
    }

    /// Removes rows of events that were done this long ago, a thousand at a time. Returns how many.
    ///
    /// An event that is delivered again after its row was removed takes effect again. Keep rows for
    /// longer than events can be retried, redriven or replayed.
    ///
    /// # Errors
    /// [`ErrorKind::SchemaMissing`] without the table, and the database's errors. What was removed
    /// before stays removed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the rest is left for the next call.
    pub async fn forget(connection: &mut PgConnection, older_than: Duration) -> Result<u64> {
        let statement = format!(
            "DELETE FROM ezq.inbox
             WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM ezq.inbox
               WHERE handled_at < pg_catalog.clock_timestamp() - $1::float8 * interval '1 us'
               ORDER BY handled_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let mut removed = 0;
        loop {
            let batch = sqlx::query(AssertSqlSafe(statement.clone()))
                .bind(micros(older_than))
                .execute(&mut *connection)
                .await
                .map_err(failed)?
                .rows_affected();
            removed += batch;
            if batch < BATCH {
                return Ok(removed);
            }
        }
    }
}

/// A text as the table's key holds it. An index entry has at most 2,704 bytes, so a long text is
/// replaced by its hash.
fn short(text: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.octet_length({text}::text) <= 800 THEN {text}::text
         ELSE 'sha256:'::text || pg_catalog.encode(
           pg_catalog.sha256(pg_catalog.convert_to({text}::text, 'UTF8')), 'hex') END"
    )
}

// The connection is the caller's: its role and server are not known here.
fn failed(failure: sqlx::Error) -> Error {
    let (kind, text) = match error::kind(&failure) {
        _ if missing::is(&failure, "ezq.inbox") => (
            ErrorKind::SchemaMissing,
            "there is no `ezq.inbox` in this database: create it with `Inbox::create`",
        ),
        ErrorKind::Permission => (
            ErrorKind::Permission,
            "the role lacks a right on `ezq.inbox`: `Inbox::setup_sql` prints what to run",
        ),
        kind if error::is_untranslatable(&failure) => (
            kind,
            "the encoding of the inbox's database lacks a character of the handler's name, or of the \
             event's source or id",
        ),
        kind => (kind, "a statement on the inbox failed"),
    };

    Error::new(kind, text).with_source(failure)
}
