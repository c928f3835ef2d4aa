//! The engine contract, each method a checkout of the right connection and one statement or two.

use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{
    Broadcasts, DeadLetter, DeadLetters, LeaseRequest, Leased, ScheduleStore, UnitOfWork,
};
use ezq_core::{
    BlockedKey, Capabilities, Delivery, Due, Engine, Error, ErrorKind, ExtendOutcome, History,
    MessageId, Outgoing, PublishOutcome, QueueName, QueueStats, Receipt, Result, Retention, Settle,
    SettleOutcome,
};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Inner, PgmqEngine};
use crate::admin::{blocked_keys, dead_letters, history, upkeep};
use crate::claim::{Claim, extend};
use crate::config::Place;
use crate::connection::connector::{Connector, Planning};
use crate::connection::dedicated::{Checkout, Link, limit};
use crate::connection::plans::Plans;
use crate::message::encoding::Encoding;
use crate::retention::removal::Removal;
use crate::settle::{Means, Settling};
use crate::tx::PgUnit;
use crate::{error, publish};

/// A standby, or a session whose role or database is set to only read.
const IS_READ_ONLY: &str =
    "SELECT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool";

/// One call on a link: checkout, statement with a time limit, give back, map the error.
macro_rules! on_link {
    ($engine:expr, $link:expr, $queue:expr, |$connection:ident| $statement:expr) => {{
        let mut is_first = true;
        loop {
            let mut link: Checkout<'_> = Link::checkout(&$link).await?;
            let (watch, is_rested) = (link.watch(), link.is_rested());
            let $connection = link.connection();
            let result = watch.limit($statement).await;
            match link.end(result) {
                // Cut while nobody used it: what was asked has hardly begun there.
                Err(failure) if is_first && is_rested && crate::error::is_lost(&failure) => {
                    is_first = false;
                }
                result => break result.map_err(|failure| $engine.failed(failure, $queue)),
            }
        }
    }};
}

/// What a caller's transaction needs of the engine.
impl PgmqEngine {
    /// Makes sure of a queue into which the caller's transaction is to store messages, as
    /// [`Engine::ensure_queue`] does. A queue that the transaction itself has made is left as it is:
    /// nobody else sees it yet, and making sure of it elsewhere would wait for the transaction's end.
    ///
    /// # Errors
    /// As [`Engine::ensure_queue`], and the database's errors on the caller's connection.
    pub async fn ensure_queue_in(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
    ) -> Result<()> {
        let Inner {
            queues, control, ..
        } = &*self.inner;
        if queues.is_made_in(connection, queue, control).await? {
            return Ok(());
        }
        self.ensure_queue(queue).await
    }
}

/// What a handler's transaction needs of its engine.
impl PgmqEngine {
    /// What opens connections for one call.
    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// Whether schemas, tables and functions may be made.
    pub(crate) fn manages_schema(&self) -> bool {
        self.inner.manage_schema
    }

    /// Whether a handler's transaction has made a queue that nobody else sees yet. Where that cannot
    /// be asked, the transaction's end tells why.
    pub(crate) async fn has_made_in(
        &self,
        connection: &mut PgConnection,
        queue: &QueueName,
    ) -> bool {
        let Inner {
            queues, control, ..
        } = &*self.inner;
        let asked = timeout(
            self.patience(),
            queues.is_made_in(connection, queue, control),
        );
        matches!(asked.await, Ok(Ok(true)))
    }

    /// Gives a queue the indexes for ordering keys, where that is possible.
    pub(crate) async fn index_keys(&self, queue: &QueueName) {
        let inner = &self.inner;
        inner
            .queues
            .index_keys(queue, &inner.control, inner.manage_schema)
            .await;
    }

    /// Makes sure of the table of replays. It is looked for each time: replays are rare.
    pub(crate) async fn ready_to_replay(&self) -> Result<()> {
        let inner = &self.inner;
        inner.replays.forget();
        inner
            .replays
            .ensure(&inner.control, &inner.connector, inner.manage_schema)
            .await
    }

    /// How well the plans fit that the server keeps for statements in the pool's transactions.
    pub(crate) fn plans(&self) -> &Plans {
        &self.inner.plans
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.inner.encoding
    }

    pub(crate) fn place(&self) -> &Place {
        self.inner.connector.place()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.connector.patience(Planning::Free)
    }

    /// What a claim inside a transaction needs to know of a queue.
    pub(crate) async fn claim_of(&self, queue: &QueueName, max: usize) -> Result<Claim> {
        let inner = &self.inner;
        let shape = inner.queues.shape(queue, &inner.control).await?;
        if shape.keyed {
            let text = "messages with ordering keys are claimed by lease";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let ttl = Duration::from_secs(1);
        let request = LeaseRequest {
            queue: queue.clone(),
            max,
            ttl,
            keys: max,
            before: None,
            after: None,
        };
        Ok(Claim::new(&request, shape, inner.restart_grace))
    }

    /// How acknowledged messages leave a queue.
    pub(crate) async fn removal_of(&self, queue: &QueueName) -> Result<Removal> {
        let inner = &self.inner;
        inner
            .retentions
            .removal(queue, &inner.control, inner.manage_schema)
            .await
    }

    /// Makes sure that events with dedupe keys can be stored.
    pub(crate) async fn ready_for(&self, outgoing: &[Outgoing]) -> Result<()> {
        self.inner.ready_for(outgoing.iter()).await
    }

    pub(crate) fn announce(&self, queue: &QueueName) {
        self.inner.announce(queue);
    }

    /// Runs a statement with one value that must not wait for others.
    pub(crate) async fn urgently(&self, statement: &str, value: &str) -> Result<()> {
        let mut link = self.inner.urgent.checkout().await?;
        let (watch, statement) = (link.watch(), AssertSqlSafe(statement.to_owned()));
        let query = sqlx::query(statement)
            .bind(value)
            .execute(link.connection());
        let result = watch.limit(query).await;
        link.end(result)
            .map(|_| ())
            .map_err(|failure| error::of(failure, self.place()))
    }

    pub(crate) fn failed(&self, failure: sqlx::Error, queue: &QueueName) -> Error {
        self.inner.note(&failure, queue);
        error::on_queue(failure, queue, self.inner.connector.place())
    }
}

pub(super) use on_link;

#[async_trait]
impl Engine for PgmqEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<()> {
        let inner = &self.inner;
        let (control, manage) = (&inner.control, inner.manage_schema);
        inner.queues.ensure(queue, control, manage).await?;
        inner.retentions.ensure(queue, control, manage).await?;
        inner.start_sweeping();
        Ok(())
    }

    fn set_retention(&self, queue: &QueueName, retention: Retention) -> Result<()> {
        self.inner.retentions.set(queue, retention);
        Ok(())
    }

    fn check(&self, message: &Outgoing) -> Result<()> {
        publish::checked(message, self.inner.encoding).map(|_| ())
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
        let means = Means {
            link: &inner.settle,
            control: &inner.control,
            queues: &inner.queues,
            retentions: &inner.retentions,
            manage_schema: inner.manage_schema,
            locked: &inner.locked,
            encoding: inner.encoding,
            keys: &inner.schema,
            no_keys: no_keys.as_ref(),
        };
        let gives_back = settlements
            .iter()
            .any(|(_, settle)| matches!(settle, Settle::Release));
        let mut settled = Settling::new(means, queue).run(settlements).await;
        if gives_back {
            inner.fronts.forget(queue);
        }
        inner.announce_all(&settled.woken);
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
        on_link!(self, self.inner.renew, queue, |connection| extend::extend(
            connection, queue, receipts, ttl
        ))
    }

    async fn begin(
        &self,
        queue: &QueueName,
        limit: Option<Duration>,
    ) -> Result<Box<dyn UnitOfWork>> {
        Ok(Box::new(PgUnit::begin(self, queue, limit).await?))
    }

    async fn cancel(&self, queue: &QueueName, id: &MessageId) -> Result<bool> {
        on_link!(
            self,
            self.inner.control,
            queue,
            |connection| upkeep::cancel(connection, queue, id)
        )
    }

    async fn reschedule(&self, queue: &QueueName, id: &MessageId, due: Due) -> Result<bool> {
        let moved = on_link!(self, self.inner.control, queue, |connection| {
            upkeep::reschedule(connection, queue, id, due)
        })?;
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
        let control = &self.inner.control;
        let last = on_link!(self, control, queue, |connection| upkeep::last(
            connection, queue
        ))?;
        let (mut purged, mut next) = (0, last.map(|_| i64::MIN));
        // Others have the connection between two steps.
        while let (Some(after), Some(last)) = (next, last) {
            let (count, reached) = on_link!(self, control, queue, |connection| {
                upkeep::purge(connection, queue, after, last)
            })?;
            purged += count;
            next = reached;
        }
        Ok(purged)
    }

    async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        on_link!(self, self.inner.control, queue, |connection| upkeep::stats(
            connection, queue
        ))
    }

    fn wake(&self, queue: &QueueName) {
        self.inner.announce(queue);
    }

    async fn lag(&self, queue: &QueueName) -> Result<Option<Duration>> {
        on_link!(self, self.inner.control, queue, |connection| upkeep::lag(
            connection, queue
        ))
    }

    async fn blocked_keys(&self, queue: &QueueName, limit: usize) -> Result<Vec<BlockedKey>> {
        on_link!(self, self.inner.control, queue, |connection| {
            blocked_keys::list(connection, queue, limit)
        })
    }

    async fn health_check(&self) -> Result<()> {
        let mut link = self.inner.urgent.checkout().await?;
        let watch = link.watch();
        let asked = sqlx::query_scalar::<_, bool>(IS_READ_ONLY).fetch_one(link.connection());
        let result = watch.limit(asked).await;
        let place = self.inner.connector.place();
        match link
            .end(result)
            .map_err(|failure| error::of(failure, place))?
        {
            false => Ok(()),
            true => Err(error::read_only(place)),
        }
    }

    // On a connection of its own: it may read much, and nothing else is to wait for that.
    async fn history(&self, event_id: &str, queue: Option<&QueueName>) -> Result<History> {
        let connector = &self.inner.connector;
        let mut connection = connector.connect().await?;
        let statements = history::read(&mut connection, event_id, queue);
        let result = limit(connector.patience(Planning::Free), statements).await;
        // Closed politely where that is possible, dropped where it is not.
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

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl DeadLetters for PgmqEngine {
    async fn list(
        &self,
        queue: &QueueName,
        after: Option<&MessageId>,
        limit_to: usize,
    ) -> Result<Vec<DeadLetter>> {
        on_link!(self, self.inner.control, queue, |connection| {
            dead_letters::list(connection, queue, after, limit_to)
        })
    }

    async fn find(&self, queue: &QueueName, id: &MessageId) -> Result<Option<DeadLetter>> {
        on_link!(self, self.inner.control, queue, |connection| {
            dead_letters::find(connection, queue, id)
        })
    }

    async fn redrive(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let moved = on_link!(self, self.inner.control, queue, |connection| {
            dead_letters::redrive(connection, queue, ids)
        })?;
        if !moved.is_empty() {
            self.inner.announce(queue);
        }
        Ok(moved)
    }

    async fn discard(&self, queue: &QueueName, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        on_link!(self, self.inner.control, queue, |connection| {
            dead_letters::discard(connection, queue, ids)
        })
    }
}
