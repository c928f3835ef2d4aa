//! Publishing in the caller's transaction, as a step of what `publish`, `publish_all` and `broadcast`
//! return.
//!
//! A trait, because these builders are ezq-core's, which knows no Postgres. They hand out the
//! message and this engine; [`PgmqEngine::publish_in`] and [`PgmqEngine::broadcast_in`] store it.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};

use ezq_core::engine::Engine as _;
use ezq_core::publish::{
    Broadcast, Broadcasted, Prepared, Publish, PublishAll, PublishAllError, Published,
};
use ezq_core::{Error, ErrorKind, Result};
use sqlx::PgConnection;

use crate::engine::PgmqEngine;

/// Stores what is published in the caller's transaction, in place of one of ezq's own.
///
/// Import it (the prelude of `ezq` has it) and end any publish with [`within`](Self::within):
///
/// ```
/// # use ezq_core::app::App;
/// # use ezq_core::event::Event;
/// # async fn example<Paid: Event>(app: App, pool: sqlx::PgPool, paid: Vec<Paid>) -> Result<(), Box<dyn std::error::Error>> {
/// use ezq_pgmq::PublishWithin;
///
/// let mut tx = pool.begin().await?;
/// sqlx::query("update orders set paid = true where id = 7").execute(&mut *tx).await?;
/// app.publish(&paid[0]).queue("mail").within(&mut tx).await?;
/// app.publish_all(&paid).within(&mut tx).await?;
/// app.broadcast(&paid[0]).within(&mut tx).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// It takes a transaction of the database in which the application's own engine keeps its queues:
/// one of the engine's pool, or of any other connection to it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in a transaction",
    note = "`within` follows `publish`, `publish_all` or `broadcast`, before `.await`"
)]
pub trait PublishWithin: IntoFuture {
    /// Publishes in the caller's transaction, with the result of awaiting the builder itself. Consumers
    /// see the events once the transaction commits. A rollback leaves nothing, and frees dedupe keys.
    ///
    /// - **Waking.** Consumers are woken a few milliseconds after the commit. Pass the answer to
    ///   [`confirm`](ezq_core::app::App::confirm) after the commit to wake them at once. That also
    ///   tells hooks, which learn of the events in no other way.
    /// - **Locks.** The transaction locks only its own rows, and may be prepared for a two-phase commit.
    ///   Until it ends, others who publish with one of its dedupe keys wait. Take the lock of an
    ///   ordering key first ([`lock_key`](PgmqEngine::lock_key)) if transactions publish events of one
    ///   key at once and their order matters.
    /// - **Queues.** A missing queue is created by a transaction of its own, before the event is stored,
    ///   unless this transaction has created it. A queue that is kept by a named engine is refused.
    /// - **Several events.** Of [`publish_all`](ezq_core::app::App::publish_all), an event that is
    ///   refused before anything is sent harms no other: the transaction holds the rest, as the
    ///   error tells.
    /// - **Broadcasts.** Who is subscribed is asked when this is awaited, not at the commit. Every
    ///   subscribed queue gets its copy at the commit.
    ///
    /// # Errors
    /// As awaiting the builder itself. [`ErrorKind::Unsupported`] if a named engine keeps the queue, or
    /// the application's own engine is not PGMQ. After an error of the database the transaction can only
    /// be rolled back.
    ///
    /// # Cancel safety
    /// Once polled, dropping the future leaves it open whether the transaction holds the events: roll it
    /// back.
    fn within(
        self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = <Self as IntoFuture>::Output> + Send;
}

impl PublishWithin for Publish {
    async fn within(self, connection: &mut PgConnection) -> Result<Published> {
        let (engine, prepared) = self.prepare_for::<PgmqEngine>()?;

        let queue = &prepared.outgoing.queue;
        engine.ensure_queue_in(connection, queue).await?;
        let messages = vec![prepared.outgoing.clone()];
        let mut outcomes = engine.publish_in(connection, messages).await?;

        let outcome = outcomes.pop().ok_or_else(no_id)?;
        prepared.published(outcome)
    }
}

impl PublishWithin for PublishAll {
    async fn within(
        self,
        connection: &mut PgConnection,
    ) -> Result<Vec<Published>, PublishAllError> {
        let prepared = self.prepare_for::<PgmqEngine>();
        let (engine, events) = prepared.map_err(PublishAllError::Whole)?;

        // A message that the database refuses spoils the transaction, so each is checked before.
        let checked = events.into_iter().map(|event| {
            let event = event?;
            engine.check(&event.outgoing)?;
            Ok(event)
        });
        let outcomes = store(&engine, connection, checked.collect())
            .await
            .map_err(PublishAllError::Whole)?;
        PublishAllError::unless_all(outcomes)
    }
}

/// Stores the events that are not refused; an outcome each, in their order.
async fn store(
    engine: &PgmqEngine,
    connection: &mut PgConnection,
    events: Vec<Result<Prepared>>,
) -> Result<Vec<Result<Published>>> {
    let accepted = events.iter().flatten().map(|event| &event.outgoing);
    let queues: BTreeSet<_> = accepted.clone().map(|message| &message.queue).collect();
    let messages = accepted.cloned().collect();
    for queue in queues {
        engine.ensure_queue_in(connection, queue).await?;
    }
    let mut stored = engine.publish_in(connection, messages).await?.into_iter();

    let outcomes = events.into_iter().map(|event| {
        let event = event?;
        event.published(stored.next().ok_or_else(no_id)?)
    });
    Ok(outcomes.collect())
}

impl PublishWithin for Broadcast {
    async fn within(self, connection: &mut PgConnection) -> Result<Broadcasted> {
        let (engine, prepared) = self.prepare_for::<PgmqEngine>()?;
        let copies = engine
            .broadcast_in(connection, prepared.message.clone())
            .await?;
        prepared.broadcasted(copies)
    }
}

fn no_id() -> Error {
    Error::new(ErrorKind::Engine, "the database returned no id")
}
