//! The engine contract: each method is a call on the right connection, and one statement or two.

use std::time::Duration;

use async_trait::async_trait;
use ezq_core::Result;
use ezq_core::engine::{
    BlockedKey, Broadcasts, Browse, Cancellations, Capabilities, DeadLetters, Delivery, Doctor,
    Due, Engine, ExtendOutcome, History, LeaseRequest, Leased, Operations, Outgoing, Pauses,
    Positions, Presence, PublishOutcome, QueueOverview, QueueStats, Receipt, ScheduleStore, Settle,
    SettleOutcome, SharedLooks, UnitOfWork,
};
use ezq_core::message::{MessageId, QueueName, Retention};
use sqlx::Connection as _;
use tokio::sync::watch;

use crate::admin::{blocked_keys, history, upkeep};
use crate::claim::extend;
use crate::connection::connector::Planning;
use crate::connection::dedicated::{call, limit, timed};
use crate::engine::PgmqEngine;
use crate::settle::{Resources, SettleBatch};
use crate::tx::PgUnit;
use crate::{error, publish};

/// True on a standby, or where role or database are set to read only.
const IS_READ_ONLY: &str =
    "SELECT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool";

#[async_trait]
impl Engine for PgmqEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.inner.settings.capabilities
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        let inner = &self.inner;
        let control = &inner.connections.control;
        let manage = inner.settings.manage_schema;
        inner.known.queues.ensure(queue, control, manage).await?;
        inner
            .known
            .retentions
            .ensure(queue, control, manage)
            .await?;
        inner.start_sweeping();
        Ok(())
    }

    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        self.inner.known.retentions.set(queue, retention);
        Ok(())
    }

    fn check(&self, message: &Outgoing) -> Result<()> {
        publish::checked(message, self.inner.settings.encoding).map(|_| ())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<PublishOutcome>> {
        self.inner.publish(messages).await
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Leased> {
        self.lease_free(&request).await
    }

    async fn wakeups(&self, queue: &QueueName) -> Result<Option<watch::Receiver<u64>>> {
        self.inner.listen().await?;
        Ok(Some(self.inner.wake.subscribe(queue)))
    }

    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(Receipt, Settle)>,
    ) -> Result<Vec<SettleOutcome>> {
        let inner = &self.inner;
        let outgoing = settlements.iter().flat_map(|(_, settle)| settle.outgoing());
        let no_keys = inner.ready_for(outgoing).await.err();
        let resources = Resources {
            connections: &inner.connections.settle,
            control: &inner.connections.control,
            queues: &inner.known.queues,
            retentions: &inner.known.retentions,
            manage_schema: inner.settings.manage_schema,
            locked: &inner.known.locked,
            partitions: &inner.claims.partitions,
            encoding: inner.settings.encoding,
            keys: &inner.tables.dedupe_keys,
            no_keys: no_keys.as_ref(),
        };

        let gives_back = settlements
            .iter()
            .any(|(_, settle)| matches!(settle, Settle::Release));
        let mut settled = SettleBatch::new(resources, queue).run(settlements).await;
        // A released message is back in its old place, which may be before the cursor.
        if gives_back {
            inner.claims.cursors.forget(queue);
        }

        // Each was updated by its claim, and now again or deleted.
        let done = settled.outcomes.iter();
        let done = done.filter(|outcome| matches!(outcome, SettleOutcome::Done));
        inner.note_dead_rows(queue, 2 * done.count());

        inner.announce_all(&settled.woken);
        // Nothing was settled: the call as a whole failed.
        if settled.is_broken
            && !settled.outcomes.is_empty()
            && let SettleOutcome::Failed { error, .. } = settled.outcomes.swap_remove(0)
        {
            return Err(error);
        }

        Ok(settled.outcomes)
    }

    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        ttl: Duration,
    ) -> Result<Vec<ExtendOutcome>> {
        let sign = self.inner.holders.sign_at_once(queue, ttl);
        let extended = call!(self.inner.connections.renew, |connection| extend::extend(
            connection, queue, receipts, ttl, sign
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        self.inner.note_dead_rows(queue, extended.len());
        Ok(extended)
    }

    async fn begin(
        &self,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Box<dyn UnitOfWork>> {
        Ok(Box::new(PgUnit::begin(self, queue, limit).await?))
    }

    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        call!(self.inner.connections.control, |connection| upkeep::cancel(
            connection, queue, id
        ))?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        let moved = call!(self.inner.connections.control, |connection| {
            upkeep::reschedule(connection, queue, id, due)
        })?
        .map_err(|failure| self.failed(failure, queue))?;
        if moved {
            self.inner.announce(queue);
        }
        Ok(moved)
    }

    async fn lease_by_id(
        &self,
        queue: &QueueName,
        id: &MessageId,
        ttl: Duration,
    ) -> Result<Option<Delivery>> {
        self.lease_one(queue, id, ttl).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let last = call!(self.inner.connections.control, |connection| upkeep::last(
            connection, queue
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        let mut purged = 0;
        let mut next = last.map(|_| i64::MIN);

        // Others get the connection between two steps.
        while let (Some(after), Some(last)) = (next, last) {
            let (count, reached) =
                call!(self.inner.connections.control, |connection| upkeep::purge(
                    connection, queue, after, last
                ))?
                .map_err(|failure| self.failed(failure, queue))?;
            purged += count;
            next = reached;
        }

        self.inner.known.stats.forget(queue);
        self.inner.known.lags.forget(queue);
        Ok(purged)
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let known = &self.inner.known;
        if let Some(stats) = known.stats.of(queue) {
            return Ok(stats);
        }
        let (took, stats) = call!(self.inner.connections.control, |connection| timed(
            upkeep::stats(connection, queue)
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        Ok(known.stats.keep(queue, stats, took))
    }

    fn wake(&self, queue: &QueueName) {
        self.inner.announce(queue);
    }

    async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        let known = &self.inner.known;
        if let Some(lag) = known.lags.of(queue) {
            return Ok(lag);
        }
        let (took, lag) = call!(self.inner.connections.control, |connection| timed(
            upkeep::lag(connection, queue)
        ))?
        .map_err(|failure| self.failed(failure, queue))?;
        Ok(known.lags.keep(queue, lag, took))
    }

    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        call!(self.inner.connections.control, |connection| {
            blocked_keys::list(connection, queue, limit)
        })?
        .map_err(|failure| self.failed(failure, queue))
    }

    async fn health_check(&self) -> Result<()> {
        let asked = call!(self.inner.connections.urgent, |connection| {
            sqlx::query_scalar::<_, bool>(IS_READ_ONLY).fetch_one(connection)
        });
        let place = self.place();
        match asked?.map_err(|failure| error::of(failure, place))? {
            false => Ok(()),
            true => Err(error::read_only(place)),
        }
    }

    // On a connection of its own: it may read much, and nothing else must wait for it.
    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        let connector = &self.inner.connections.connector;
        let mut connection = connector.connect().await?;
        let encoding = self.encoding();
        let statements = history::read(&mut connection, event_id, queue, encoding);
        let result = limit(connector.patience(Planning::Free), statements).await;
        // Closed politely if that is possible soon, and dropped otherwise.
        let _ = limit(Duration::from_secs(1), connection.close()).await;
        result.map_err(|failure| error::of(failure, connector.place()))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }

    fn schedules(&self) -> Option<&dyn ScheduleStore> {
        Some(self)
    }

    fn broadcasts(&self) -> Option<&dyn Broadcasts> {
        Some(self)
    }

    fn browse(&self) -> Option<&dyn Browse> {
        Some(self)
    }

    fn operations(&self) -> Option<&dyn Operations> {
        Some(self)
    }

    fn positions(&self) -> Option<&dyn Positions> {
        Some(self)
    }

    fn presence(&self) -> Option<&dyn Presence> {
        Some(self)
    }

    fn shared_looks(&self) -> Option<&dyn SharedLooks> {
        Some(self)
    }

    fn overview(&self) -> Option<&dyn QueueOverview> {
        Some(self)
    }

    fn doctor(&self) -> Option<&dyn Doctor> {
        Some(self)
    }

    fn cancellations(&self) -> Option<&dyn Cancellations> {
        Some(self)
    }

    fn pauses(&self) -> Option<&dyn Pauses> {
        Some(self)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
