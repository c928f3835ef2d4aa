//! Subscriptions and broadcasts, on the tables and functions of the schema `ezq`.

use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{BroadcastMessage, Broadcasts, EventParty, EventRole, QueueSubscription};
use ezq_core::{Error, ErrorKind, Pattern, PublishOutcome, QueueName, Result};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::{Inner, PgmqEngine};
use crate::connection::dedicated::limit;
use crate::connection::stop::mark;
use crate::error::{self, missing};
use crate::message::{encoding, storable};
use crate::publish::CONFLICT_TRIES;
use crate::publish::broadcast::{self, Copies, Row};
use crate::wake::feeds::CHANNEL;

const SUBSCRIBE: &str = "
    INSERT INTO ezq.subscriptions (app, queue, pattern)
    SELECT $1, $2, p FROM unnest($3::text[]) p ORDER BY p COLLATE \"C\"
    ON CONFLICT DO NOTHING";
// In the order in which every other takes them.
const UNSUBSCRIBE: &str = "
    WITH goes AS MATERIALIZED (
      SELECT s.pattern, s.queue, s.app
      FROM ezq.subscriptions s JOIN unnest($2::text[], $3::text[]) w(queue, pattern)
        ON s.queue = w.queue COLLATE \"C\" AND s.pattern = w.pattern COLLATE \"C\"
      WHERE s.app = $1 ORDER BY s.pattern, s.queue FOR UPDATE OF s)
    DELETE FROM ezq.subscriptions s USING goes g
    WHERE (s.pattern, s.queue, s.app) = (g.pattern, g.queue, g.app)";
const LIST: &str = "
    SELECT app, queue, pattern, since, to_regclass('pgmq.' || quote_ident('q_' || queue)) IS NOT NULL AS queue_exists
    FROM ezq.subscriptions ORDER BY queue, pattern, app";
const RECORD: &str = "
    INSERT INTO ezq.event_parties (event_type, role, app)
    SELECT t, r, a FROM unnest($1::text[], $2::text[], $3::text[]) p(t, r, a) ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING";
const PARTIES: &str = "
    SELECT event_type, role, app FROM ezq.event_parties
    WHERE ($1::text IS NULL OR event_type = $1) AND ($2::text IS NULL OR app = $2)
    ORDER BY event_type, role, app";
const FORGET: &str = "
    WITH goes AS MATERIALIZED (
      SELECT p.event_type, p.role, p.app
      FROM ezq.event_parties p JOIN unnest($1::text[], $2::text[], $3::text[]) w(event_type, role, app)
        ON (p.event_type, p.role, p.app)
           = (w.event_type COLLATE \"C\", w.role COLLATE \"C\", w.app COLLATE \"C\")
      ORDER BY 1, 2, 3 FOR UPDATE OF p)
    DELETE FROM ezq.event_parties p USING goes g
    WHERE (p.event_type, p.role, p.app) = (g.event_type, g.role, g.app)";

/// One statement on the control connection, again if the schema was dropped since it was looked for.
macro_rules! on_control {
    ($engine:expr, |$connection:ident| $statement:expr) => {{
        let inner = &$engine.inner;
        let mut again = true;
        loop {
            inner.ready_to_broadcast().await?;
            let mut link = inner.control.checkout().await?;
            let watch = link.watch();
            let $connection = link.connection();
            let result = watch.limit($statement).await;
            match link.end(result) {
                Err(failure) if missing::of_ezq(&failure).is_some() && again => {
                    again = false;
                    inner.subscriptions.forget();
                }
                other => {
                    break other.map_err(|failure| error::of(failure, inner.connector.place()));
                }
            }
        }
    }};
}

impl Inner {
    async fn ready_to_broadcast(&self) -> Result<()> {
        self.subscriptions
            .ensure(&self.control, &self.connector, self.manage_schema)
            .await
    }

    /// Makes sure of what broadcasts need: a table for dedupe keys too, if one has a key.
    pub(super) async fn ready_for_broadcasts(&self, rows: &[Row]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.ready_to_broadcast().await?;
        if rows.iter().any(Row::is_deduped) {
            self.ready_for_keys().await?;
        }
        Ok(())
    }

    /// What an error says of ezq's own tables is remembered by forgetting.
    fn broadcast_failed(&self, failure: sqlx::Error) -> Error {
        if error::is_data(&failure) {
            return storable::refused_with(failure, "its body or headers");
        }
        if let Some(name) = dropped(&failure) {
            self.subscriptions.forget();
            self.schema.forget();
            let text = format!("`{name}` was dropped just now: broadcast again");
            return Error::new(ErrorKind::Transient, text).with_source(failure);
        }
        error::of(failure, self.connector.place())
    }

    async fn store_copies(&self, row: &Row) -> Result<Copies> {
        let mut tries = 0;
        loop {
            self.ready_for_broadcasts(std::slice::from_ref(row)).await?;
            let stored = async {
                let mut connection = limit(self.stopper.patience, self.lender.acquire()).await?;
                let insertion = async {
                    let stored = broadcast::insert(&mut connection, row).await;
                    connection.end(stored)
                };
                self.stopper.limit(&mark(None), insertion).await
            };
            let failure = match stored.await {
                Ok(copies) => return Ok(copies),
                Err(failure) => failure,
            };
            tries += 1;
            let passes = error::is_conflict(&failure) || dropped(&failure).is_some();
            let error = self.broadcast_failed(failure);
            if !passes || tries == CONFLICT_TRIES {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(5 << tries)).await;
        }
    }

    /// Wakes whoever waits for a copy.
    pub(super) fn announce_copies(&self, copies: &Copies) {
        for queue in stored(copies) {
            self.announce(queue);
        }
    }
}

/// The table or function that a broadcast needs and that is gone; not what a trigger asks for.
fn dropped(failure: &sqlx::Error) -> Option<&str> {
    missing::of_ezq(failure).or_else(|| missing::of_pgmq(failure))
}

fn stored(copies: &Copies) -> impl Iterator<Item = &QueueName> {
    let is_new = |copy: &&(QueueName, PublishOutcome)| matches!(copy.1, PublishOutcome::Stored(_));
    copies.iter().filter(is_new).map(|(queue, _)| queue)
}

impl PgmqEngine {
    /// Stores a copy of an event in every subscribed queue, in the caller's transaction: all of them
    /// become visible when it commits, and none if it does not. What became of each, by queue; who is
    /// subscribed is asked by the statement itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`] when the store cannot keep the event, and
    /// [`ErrorKind::SchemaMissing`] without the tables of ezq's own, both found before anything is
    /// sent; the database's errors otherwise, such as [`ErrorKind::Permission`] where the role may not
    /// write into one of the queues. After an error of the database the transaction can only be
    /// rolled back.
    pub async fn broadcast_in(
        &self,
        connection: &mut PgConnection,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        let inner = &self.inner;
        let row = Row::new(message, inner.encoding)?;
        inner
            .ready_for_broadcasts(std::slice::from_ref(&row))
            .await?;
        inner.start_notifying();
        let copies = broadcast::insert_in(connection, &row).await;
        let (copies, writer) = copies.map_err(|failure| inner.broadcast_failed(failure))?;
        if let Some(writer) = writer {
            for queue in stored(&copies) {
                inner.wake.announce_after(writer, queue);
            }
        }
        Ok(copies)
    }

    /// Makes sure that a handler's broadcasts can be stored.
    pub(crate) async fn ready_for_broadcasts(&self, rows: &[Row]) -> Result<()> {
        self.inner.ready_for_broadcasts(rows).await
    }

    /// What a handler's transaction has broadcast is there.
    pub(crate) fn broadcast_done(&self, event_type: &str, copies: &Copies) {
        self.inner.announce_copies(copies);
        if copies.is_empty() {
            ezq_core::private::warn_of_nobody(event_type);
        }
        for (queue, outcome) in copies {
            if let PublishOutcome::Failed(error) = outcome {
                let error = ezq_core::error_chain(error);
                ezq_core::private::warn!(%queue, error, "a subscribed queue gets no copy");
            }
        }
    }

    pub(crate) fn broadcast_failed(&self, failure: sqlx::Error) -> Error {
        self.inner.broadcast_failed(failure)
    }
}

#[async_trait]
impl Broadcasts for PgmqEngine {
    async fn ready(&self) -> Result<()> {
        self.inner.ready_to_broadcast().await
    }

    async fn subscribe(&self, app: &str, queue: &QueueName, patterns: &[Pattern]) -> Result<u64> {
        let patterns: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        let app = &*self.inner.encoding.name(app);
        let done = on_control!(self, |connection| {
            let statement = sqlx::query(SUBSCRIBE)
                .bind(app)
                .bind(queue.as_str())
                .bind(&patterns);
            statement.execute(connection)
        })?;
        if done.rows_affected() > 0 {
            // What captures broadcast may feed the queue now.
            on_control!(self, |connection| {
                sqlx::query("SELECT pg_notify($1, '')")
                    .bind(CHANNEL)
                    .execute(connection)
            })?;
        }
        Ok(done.rows_affected())
    }

    async fn unsubscribe(&self, app: &str, which: &[(QueueName, Pattern)]) -> Result<u64> {
        let queues: Vec<&str> = which.iter().map(|(queue, _)| queue.as_str()).collect();
        let patterns: Vec<&str> = which.iter().map(|(_, pattern)| pattern.as_str()).collect();
        let app = &*self.inner.encoding.name(app);
        let done = on_control!(self, |connection| {
            let statement = sqlx::query(UNSUBSCRIBE)
                .bind(app)
                .bind(&queues)
                .bind(&patterns);
            statement.execute(connection)
        })?;
        Ok(done.rows_affected())
    }

    async fn subscriptions(&self) -> Result<Vec<QueueSubscription>> {
        let rows = on_control!(self, |connection| sqlx::query(LIST).fetch_all(connection))?;
        let read = rows
            .iter()
            .map(subscription)
            .collect::<Result<_, sqlx::Error>>();
        read.map_err(|failure| error::of(failure, self.place()))
    }

    async fn broadcast(
        &self,
        message: BroadcastMessage,
    ) -> Result<Vec<(QueueName, PublishOutcome)>> {
        let inner = &self.inner;
        let row = Row::new(message, inner.encoding)?;
        let copies = inner.store_copies(&row).await?;
        inner.announce_copies(&copies);
        if row.is_keyed() {
            for queue in stored(&copies) {
                inner
                    .queues
                    .index_keys(queue, &inner.control, inner.manage_schema)
                    .await;
            }
        }
        Ok(copies)
    }

    async fn record(&self, parties: &[EventParty]) -> Result<()> {
        self.for_parties(RECORD, parties).await.map(drop)
    }

    async fn parties(&self, event_type: &str) -> Result<Vec<EventParty>> {
        self.find_parties(Some(event_type), None).await
    }

    async fn said_by(&self, app: &str) -> Result<Vec<EventParty>> {
        self.find_parties(None, Some(app)).await
    }

    async fn forget(&self, parties: &[EventParty]) -> Result<u64> {
        self.for_parties(FORGET, parties).await
    }
}

impl PgmqEngine {
    /// How many rows a statement on these changed.
    async fn for_parties(&self, statement: &'static str, parties: &[EventParty]) -> Result<u64> {
        let types: Vec<&str> = parties
            .iter()
            .map(|party| party.event_type.as_str())
            .collect();
        let roles: Vec<&str> = parties.iter().map(|party| role(party.role)).collect();
        let encoding = self.inner.encoding;
        let apps: Vec<_> = parties
            .iter()
            .map(|party| encoding.name(&party.app))
            .collect();
        let done = on_control!(self, |connection| {
            sqlx::query(statement)
                .bind(&types)
                .bind(&roles)
                .bind(&apps)
                .execute(connection)
        })?;
        Ok(done.rows_affected())
    }

    async fn find_parties(
        &self,
        event_type: Option<&str>,
        app: Option<&str>,
    ) -> Result<Vec<EventParty>> {
        let app = app.map(|app| self.inner.encoding.name(app));
        let app = app.as_deref();
        let rows = on_control!(self, |connection| {
            sqlx::query(PARTIES)
                .bind(event_type)
                .bind(app)
                .fetch_all(connection)
        })?;
        let party = |row: &PgRow| {
            let role = match row.try_get("role")? {
                "owner" => EventRole::Owner,
                _ => EventRole::Publisher,
            };
            Ok(EventParty {
                event_type: row.try_get("event_type")?,
                role,
                app: given(row.try_get("app")?),
            })
        };
        let read = rows.iter().map(party).collect::<Result<_, sqlx::Error>>();
        read.map_err(|failure| error::of(failure, self.place()))
    }
}

fn role(role: EventRole) -> &'static str {
    match role {
        EventRole::Owner => "owner",
        _ => "publisher",
    }
}

/// The name of an application as it was given.
fn given(written: &str) -> String {
    encoding::original(written).into_owned()
}

fn subscription(row: &PgRow) -> Result<QueueSubscription, sqlx::Error> {
    let pattern: &str = row.try_get("pattern")?;
    let pattern = Pattern::new(pattern).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let (app, queue) = (given(row.try_get("app")?), broadcast::queue(row)?);
    let mut told = QueueSubscription::new(&app, &queue, &pattern, row.try_get("since")?);
    told.queue_exists = row.try_get("queue_exists")?;
    Ok(told)
}
