//! [`Tx`], the extractor with which a handler takes its transaction.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ezq_core::handler::{Call, Extract, HandlerError, Provided};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnection;
use tokio::sync::OwnedMutexGuard;

use super::unit::{Open, PgUnit};

/// The transaction of a handler, as an extractor. What the handler writes through it commits
/// together with the events that it publishes and with the acknowledgement, or not at all.
///
/// It is a [`PgConnection`] of the application's pool, inside a transaction. ezq begins it before
/// the handler and commits it afterwards, under the fence of the delivery's receipt: a worker that
/// lost its lease commits nothing. So its writes happen once for each event, however often the
/// event is delivered. What the handler does elsewhere is not covered.
///
/// The handler returns it by dropping it: keep it inside the handler, and leave `BEGIN`, `COMMIT`
/// and `ROLLBACK` to ezq. Savepoints (`(&mut *tx).begin()`) are yours.
///
/// Change settings by `SET LOCAL`; a plain `SET` stays with the pooled connection. Two things fail
/// the attempt, since ezq ends the transaction in the same session:
/// - a role that may not write to the queues and is not `RESET` before the handler returns
/// - `RESET ALL` or `DISCARD`, which undo the settings by which ezq knows the transaction
///
/// The isolation level is READ COMMITTED. Under a higher one the transaction would not see that its
/// lease was renewed, and acknowledging would fail the attempt. Lock the rows that you read (`FOR
/// UPDATE`, `FOR SHARE`) instead.
///
/// ```no_run
/// use ezq_pgmq::Tx;
///
/// # struct Paid { order: i64 }
/// async fn book(event: Paid, mut tx: Tx) -> Result<(), sqlx::Error> {
///     sqlx::query("update orders set paid = true where id = $1")
///         .bind(event.order)
///         .execute(&mut *tx)
///         .await?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Tx {
    open: OwnedMutexGuard<Open>,
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.open.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.open.connection
    }
}

impl Extract for Tx {
    const TRANSACTION: bool = true;

    fn check(provided: &Provided<'_>) -> Result<()> {
        let capabilities = provided.capabilities;
        if capabilities.transactions {
            return Ok(());
        }
        let name = capabilities.name;
        let text = format!("the engine `{name}` has no transactions: `Tx` needs events on PGMQ");
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    async fn extract(call: &Call) -> Result<Self, HandlerError> {
        let open = call.unit_of_work(|unit| {
            let unit = unit.as_any().downcast_mut::<PgUnit>()?;
            Arc::clone(&unit.open).try_lock_owned().ok()
        });
        let open = open.flatten().ok_or_else(|| {
            let text = "there is no transaction of PGMQ to take: a handler takes `Tx` once";
            HandlerError::fatal(Error::new(ErrorKind::Unsupported, text))
        })?;
        Ok(Self { open })
    }
}
