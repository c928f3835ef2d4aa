//! A replay that is being defined, and how it runs.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::admin::recorded;
use ezq_core::engine::{AuditAction, AuditEntry, Engine as _, Signature};
use ezq_core::event::Pattern;
use ezq_core::message::IntoQueueName;
use ezq_core::{Error, ErrorKind, Result};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::failure::{failed, failed_on, gone};
use super::list::{Replays, list};
use super::options::Options;
use super::page::step;
use super::progress::ReplayProgress;
use super::row::{ReplayRow, locked};
use super::sql;
use crate::engine::PgmqEngine;
use crate::message::encoding;
use crate::retention;
use crate::sql::units::in_calendar;

type OnProgress = Box<dyn FnMut(&ReplayProgress) + Send>;

/// A replay that is being defined: await it to run it.
///
/// The selected events are stored as copies, in the order in which they were stored first. Events
/// that were archived under another number, because the archive already had theirs, come last. A
/// copy has the event's id, body, ordering key and other headers, and one header that marks the
/// replay ([`REPLAY`](ezq_core::message::headers::REPLAY)). Marks of handlers are not copied, so
/// every handler runs, and a `Tx` handler takes effect a second time. The archive is not changed.
///
/// A replay selects from what was archived when the replay of this name began. It leaves out what
/// is archived later, its own copies included, and what transactions archived that were still open
/// at that time. One exception: rows that such a transaction archived inside a savepoint may be
/// replayed.
///
/// Each event is replayed once, however often the replay is interrupted or run again. Several
/// processes may run it under one name; each does a part. Events that the archive's sweep removes
/// before they are reached are lost. A copy may be handled more than once, as any event.
///
/// Each run is recorded in the [audit trail](ezq_core::app::App::audit) before, and then how many events
/// it stored.
///
/// # Errors
/// What was done before an error stays done: run the replay again under its name.
/// - [`ErrorKind::Configuration`] without a name, or when a replay of this name was begun with
///   other options
/// - [`ErrorKind::QueueMissing`] when the queue has no archive
/// - [`ErrorKind::SchemaMissing`] where ezq's tables are absent and cannot be created
/// - the database's errors otherwise
///
/// # Cancel safety
/// Events that were replayed before the future is dropped stay so, and are not replayed again.
#[must_use = "nothing is replayed until this is awaited"]
pub struct Replay {
    engine: PgmqEngine,
    /// In a form that the database can store.
    name: String,
    options: Result<Options>,
    rate: Option<u32>,
    on_progress: Option<OnProgress>,
    signature: Signature,
}

impl Replay {
    fn with(mut self, set: impl FnOnce(&mut Options) -> Result<()>) -> Self {
        self.options = self.options.and_then(|mut options| {
            set(&mut options)?;
            Ok(options)
        });
        self
    }

    /// Another queue for the copies than the archive's own.
    pub fn to_queue(self, queue: impl IntoQueueName) -> Self {
        self.with(|options| {
            options.target = queue.into_queue_name()?;
            Ok(())
        })
    }

    /// Only events that were published at this time or later, on the database's clock.
    pub fn published_after(self, time: DateTime<Utc>) -> Self {
        self.with(|options| {
            options.after = Some(in_calendar(time));
            Ok(())
        })
    }

    /// Only events that were published before this time, on the database's clock.
    pub fn published_before(self, time: DateTime<Utc>) -> Self {
        self.with(|options| {
            options.before = Some(in_calendar(time));
            Ok(())
        })
    }

    /// Only events of a type, or of the types that a pattern matches. Called again, it adds a
    /// pattern.
    pub fn event_type(self, pattern: impl TryInto<Pattern, Error = Error>) -> Self {
        self.with(|options| {
            options.types.push(pattern.try_into()?);
            Ok(())
        })
    }

    /// Only events whose data contains this, in the sense of `jsonb`'s `@>`: `json!({"region":
    /// "north"})`. A body of bytes, such as an encrypted one, contains nothing.
    pub fn data(self, contained: Value) -> Self {
        self.with(|options| {
            options.data = Some(contained);
            Ok(())
        })
    }

    /// The largest number of events a second, at least 1. Defaults to no limit.
    pub fn rate(mut self, per_second: u32) -> Self {
        if per_second == 0 {
            return self.with(|_| {
                Err(Error::new(
                    ErrorKind::Configuration,
                    "`rate` must be at least 1",
                ))
            });
        }
        self.rate = Some(per_second);
        self
    }

    /// Is called after each step with the progress so far.
    pub fn on_progress(mut self, told: impl FnMut(&ReplayProgress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(told));
        self
    }

    /// Who replays. Defaults to the application's name.
    pub fn by(mut self, who: impl Into<String>) -> Self {
        self.signature.by = who.into();
        self
    }

    /// Why. Defaults to no reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.signature.reason = Some(reason.into());
        self
    }

    /// Counts the events that a run would replay now, without replaying them. For a replay that was
    /// begun, these are the remaining ones.
    ///
    /// # Errors
    /// As for the replay.
    pub async fn dry_run(self) -> Result<u64> {
        let options = self.options?;
        let connector = self.engine.connector();
        let mut connection = connector.connect().await?;
        let counted = async {
            let stands = "SELECT to_regclass('ezq.replays') IS NOT NULL, clock_timestamp()";
            let (stands, now): (bool, DateTime<Utc>) =
                sqlx::query_as(stands).fetch_one(&mut connection).await?;
            let begun = match stands {
                true => locked(&mut connection, &self.name).await?,
                false => None,
            };

            // Not begun yet: a run would select everything that is archived now.
            let at = begun.unwrap_or(ReplayRow {
                position: 0,
                last_id: i64::MAX,
                at: now,
                definition: Value::Null,
                open: Vec::new(),
            });
            let count = options.bind(sql::count(&options.queue), &at);
            let count: i64 = count.fetch_one(&mut connection).await?.try_get(0)?;
            Ok((at.definition, count))
        };

        let counted = counted.await;
        let _ = connection.close().await;
        let (definition, count) =
            counted.map_err(|failure| failed_on(failure, &self.engine, &options))?;

        if !definition.is_null() {
            options.check(&self.name, &definition)?;
        }

        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn run(self) -> Result<ReplayProgress> {
        let Self {
            engine,
            name,
            options,
            rate,
            on_progress,
            signature,
        } = self;
        let options = options?;
        if name.is_empty() {
            let text = "a replay needs a name, under which it continues after an interruption";
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        let queue = options.queue.clone();
        let now = DateTime::UNIX_EPOCH;
        let mut entry = AuditEntry::new(now, signature, AuditAction::Replay, queue);
        entry.target = Some(options.target.clone());
        entry.subject = Some(encoding::original(&name).into_owned());
        let run = Run {
            engine: &engine,
            name: &name,
            options: &options,
            rate,
        };
        let (progress, _) = recorded(&engine, entry, run.run(on_progress), |(_, count)| {
            Some(*count)
        })
        .await?;
        Ok(progress)
    }
}

/// A replay whose definition is complete.
struct Run<'a> {
    engine: &'a PgmqEngine,
    name: &'a str,
    options: &'a Options,
    rate: Option<u32>,
}

impl Run<'_> {
    /// Runs it to its end. Returns how far it is, and how many events this run has stored.
    async fn run(self, on_progress: Option<OnProgress>) -> Result<(ReplayProgress, u64)> {
        self.engine.ready_to_replay().await?;
        let mut connection = self.engine.connector().connect().await?;
        let done = self.pages(&mut connection, on_progress).await;
        let _ = connection.close().await;
        done
    }

    async fn pages(
        &self,
        connection: &mut PgConnection,
        mut on_progress: Option<OnProgress>,
    ) -> Result<(ReplayProgress, u64)> {
        let Self {
            engine,
            name,
            options,
            rate,
        } = *self;
        // Before the target queue is created: a mistyped name must create none.
        let counted = sqlx::query_scalar::<_, bool>(sql::HAS_ARCHIVE).bind(options.queue.as_str());
        let has_archive = counted.fetch_one(&mut *connection).await;
        if !has_archive.map_err(|failure| failed(failure, engine))? {
            return Err(retention::missing(&options.queue));
        }

        engine.ensure_queue(&options.target).await?;
        let mut stored = 0;
        loop {
            let (is_finished, count) = step(&mut *connection, engine, name, options, rate).await?;
            stored += count;
            // A page may hold nothing that is selected.
            if count > 0 {
                engine.announce(&options.target);
            }

            let told = list(&mut *connection, Some(name)).await;
            let told = told.map_err(|failure| failed(failure, engine))?.pop();
            let told = told.ok_or_else(|| gone(name))?;

            if let Some(tell) = &mut on_progress {
                tell(&told);
            }

            if is_finished {
                return Ok((told, stored));
            }

            if let Some(rate) = rate {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                // The limit is for what is replayed, not for what is read.
                let pause = Duration::from_secs(1)
                    .saturating_mul(count)
                    .checked_div(rate);
                tokio::time::sleep(pause.unwrap_or_default()).await;
            }
        }
    }
}

impl IntoFuture for Replay {
    type Output = Result<ReplayProgress>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            options,
            rate,
            ..
        } = self;
        f.debug_struct("Replay")
            .field("name", name)
            .field("options", options)
            .field("rate", rate)
            .finish_non_exhaustive()
    }
}

impl PgmqEngine {
    /// Replays archived events of a queue, when awaited: into the same queue or another, all of
    /// them or some. An interrupted replay resumes under its name.
    pub fn replay(&self, name: impl Into<String>, queue: impl IntoQueueName) -> Replay {
        let options = queue.into_queue_name().map(|queue| Options {
            target: queue.clone(),
            queue,
            after: None,
            before: None,
            types: Vec::new(),
            data: None,
        });
        let name = self.encoding().name(&name.into()).into_owned();
        Replay {
            engine: self.clone(),
            name,
            options,
            rate: None,
            on_progress: None,
            // The engine knows no application: whoever does sets its name.
            signature: Signature::new(&*self.place().role),
        }
    }

    /// The replays that were begun.
    #[must_use]
    pub fn replays(&self) -> Replays<'_> {
        Replays::of(self)
    }
}
