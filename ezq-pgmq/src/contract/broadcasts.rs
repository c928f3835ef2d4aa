//! Subscriptions and broadcasts, on the tables and functions of the schema `ezq`.

use async_trait::async_trait;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts, EventParty, PublishOutcome, QueueSubscription,
};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};

use crate::admin::subscriptions::{self, PartyColumns};
use crate::engine::{PgmqEngine, call_part, stored};
use crate::error;
use crate::publish::broadcast::Row;

#[async_trait]
impl Broadcasts for PgmqEngine {
    async fn ready(&self) -> Result<()> {
        self.inner.ready_to_broadcast().await
    }

    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64> {
        let patterns: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        let encoding = self.encoding();
        if let Some(pattern) = patterns.iter().find(|text| !encoding.may_hold(text)) {
            let pattern = pattern.escape_debug();
            let text = format!("the encoding of the database cannot hold the pattern `{pattern}`");
            return Err(Error::new(ErrorKind::InvalidPattern, text));
        }
        let app = &*self.inner.settings.encoding.name(app);
        let added = call_part!(self.inner, broadcasts, |connection| {
            subscriptions::subscribe(connection, app, queue, &patterns)
        })?
        .map_err(|failure| error::of(failure, self.place()))?;

        if added > 0 {
            // What captures broadcast may feed the queue now.
            call_part!(self.inner, broadcasts, |connection| {
                subscriptions::announce(connection)
            })?
            .map_err(|failure| error::of(failure, self.place()))?;
        }

        Ok(added)
    }

    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64> {
        let encoding = self.encoding();
        // What the database cannot hold was never stored.
        let stored = which
            .iter()
            .filter(|(_, pattern)| encoding.may_hold(pattern.as_str()));
        let (queues, patterns): (Vec<&str>, Vec<&str>) = stored
            .map(|(queue, pattern)| (queue.as_str(), pattern.as_str()))
            .unzip();
        let app = &*self.inner.settings.encoding.name(app);
        call_part!(self.inner, broadcasts, |connection| {
            subscriptions::unsubscribe(connection, app, &queues, &patterns)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        if self.is_absent("subscriptions").await? {
            return Ok(Vec::new());
        }
        call_part!(self.inner, broadcasts, |connection| subscriptions::list(
            connection
        ))?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        let inner = &self.inner;
        let row = Row::new(message, inner.settings.encoding)?;
        let copies = inner.store_copies(&row).await?;
        inner.announce_copies(&copies);

        if row.is_keyed() {
            for queue in stored(&copies) {
                self.index_keys(queue).await;
            }
        }
        Ok(copies)
    }

    async fn record(&self, parties: &[EventParty]) -> Result<()> {
        let parties = PartyColumns::of(parties, self.inner.settings.encoding);
        call_part!(self.inner, broadcasts, |connection| {
            subscriptions::record(connection, &parties)
        })?
        .map_err(|failure| error::of(failure, self.place()))
        .map(drop)
    }

    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>> {
        let may_stand = self.encoding().may_hold(event_type);
        if !may_stand || self.is_absent("event_parties").await? {
            return Ok(Vec::new());
        }
        call_part!(self.inner, broadcasts, |connection| {
            subscriptions::parties(connection, Some(event_type), None)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn parties_of(&self, app: &str) -> Result<Vec<EventParty>> {
        if self.is_absent("event_parties").await? {
            return Ok(Vec::new());
        }
        let app = &*self.inner.settings.encoding.name(app);
        call_part!(self.inner, broadcasts, |connection| {
            subscriptions::parties(connection, None, Some(app))
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        let parties = PartyColumns::of(parties, self.inner.settings.encoding);
        call_part!(self.inner, broadcasts, |connection| {
            subscriptions::forget(connection, &parties)
        })?
        .map_err(|failure| error::of(failure, self.place()))
    }
}
