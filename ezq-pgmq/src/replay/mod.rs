//! Replaying archived events: storing copies of them, once each for the replay's name.
//!
//! A replay has a row with its position in the archive. One statement writes copies and position,
//! so an interrupted replay resumes where it was.
//!
//! # How a replay goes on
//!
//! A replay copies one page of an archive in the order of the ids, and notes the last id in its row
//! of `ezq.replays`, in one statement and under that row's lock. So it may be interrupted and run
//! again at any time.
//!
//! What it means is fixed when it begins:
//!
//! - the last id and the time of that moment,
//! - the transactions that were open then, whose rows are left out by `xmin`,
//! - the definition, which every later run under the same name must share.
//!
//! Copies carry the header `ezq-replay`. A replay leaves out copies whose original is in the same
//! archive.

mod list;
mod sql;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::engine::Engine as _;
use ezq_core::event::Pattern;
use ezq_core::message::{IntoQueueName, QueueName};
use ezq_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row as _};

pub use list::Replays;
use list::list;

use crate::connection::dedicated::limit;
use crate::engine::PgmqEngine;
use crate::error::missing;
use crate::retention;
use crate::schema::{Part, out_of_reach};
use crate::sql::units::in_calendar;

/// How many archived messages one statement reads.
const PAGE: u32 = 500;

/// The progress of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayProgress {
    /// Its name.
    pub name: String,
    /// The queue whose archive it reads.
    pub queue: QueueName,
    /// The queue that gets the copies.
    pub target: QueueName,
    /// How many events were replayed, by all runs under this name.
    pub handed_over: u64,
    /// Whether it is finished.
    pub is_finished: bool,
    /// When it began, by the database's clock.
    pub began_at: DateTime<Utc>,
    /// When it last made progress.
    pub moved_at: DateTime<Utc>,
}

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
}

#[derive(Debug, Clone)]
struct Options {
    queue: QueueName,
    target: QueueName,
    after: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    types: Vec<Pattern>,
    data: Option<Value>,
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
    /// "north"})`. A body that your own codec wrote is not JSON, and contains nothing.
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

    async fn run(mut self) -> Result<ReplayProgress> {
        let options = self.options?;
        let engine = self.engine;
        if self.name.is_empty() {
            let text = "a replay needs a name, under which it continues after an interruption";
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        engine.ready_to_replay().await?;
        let mut connection = engine.connector().connect().await?;
        let run = async {
            // Before the target queue is created: a mistyped name must create none.
            let counted =
                sqlx::query_scalar::<_, bool>(sql::HAS_ARCHIVE).bind(options.queue.as_str());
            let has_archive = counted.fetch_one(&mut connection).await;
            if !has_archive.map_err(|failure| failed(failure, &engine))? {
                return Err(retention::missing(&options.queue));
            }

            engine.ensure_queue(&options.target).await?;
            loop {
                let (is_finished, count) =
                    step(&mut connection, &engine, &self.name, &options, self.rate).await?;
                // A page may hold nothing that is selected.
                if count > 0 {
                    engine.announce(&options.target);
                }

                let told = list(&mut connection, Some(&self.name)).await;
                let told = told.map_err(|failure| failed(failure, &engine))?.pop();
                let told = told.ok_or_else(|| gone(&self.name))?;

                if let Some(tell) = &mut self.on_progress {
                    tell(&told);
                }

                if is_finished {
                    return Ok(told);
                }

                if let Some(rate) = self.rate {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    // The limit is for what is replayed, not for what is read.
                    let pause = Duration::from_secs(1)
                        .saturating_mul(count)
                        .checked_div(rate);
                    tokio::time::sleep(pause.unwrap_or_default()).await;
                }
            }
        };

        let done = run.await;
        let _ = connection.close().await;
        done
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

impl Options {
    /// The options that identify this replay.
    fn definition(&self) -> Value {
        json!({
            "queue": self.queue.as_str(), "target": self.target.as_str(), "data": self.data,
            "after": self.after, "before": self.before,
            "types": self.types.iter().map(Pattern::as_str).collect::<Vec<_>>(),
        })
    }

    fn check(&self, name: &str, begun: &Value) -> Result<()> {
        let mine = self.definition();
        if *begun == mine {
            return Ok(());
        }
        let message = format!(
            "the replay `{name}` was begun with other options ({begun}, not {mine}): give the \
             same options, or another name"
        );
        Err(Error::new(ErrorKind::Configuration, message))
    }

    /// Binds `$1` to `$8` of a statement.
    fn bind<'q>(&self, statement: String, begun: &ReplayRow) -> Query<'q, Postgres, PgArguments> {
        let types: Vec<String> = self.types.iter().map(sql::regex).collect();
        sqlx::query(AssertSqlSafe(statement))
            .bind(begun.position)
            .bind(begun.last_id)
            .bind(begun.at)
            .bind(self.after)
            .bind(self.before)
            .bind((!types.is_empty()).then_some(types))
            .bind(self.data.as_ref().map(Value::to_string))
            .bind(begun.open.clone())
    }
}

/// The row of a replay.
struct ReplayRow {
    definition: Value,
    position: i64,
    last_id: i64,
    at: DateTime<Utc>,
    /// The transactions that were open when it began, numbered as in rows' `xmin`.
    open: Vec<i64>,
}

async fn locked(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<ReplayRow>, sqlx::Error> {
    let row = sqlx::query(sql::LOCKED)
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };

    let definition: &str = row.try_get("definition")?;
    Ok(Some(ReplayRow {
        definition: serde_json::from_str(definition).unwrap_or_default(),
        position: row.try_get("position")?,
        last_id: row.try_get("last_id")?,
        at: row.try_get("began_at")?,
        open: row.try_get("open")?,
    }))
}

/// Runs one page. Returns whether it was the last, and how many events were replayed.
async fn step(
    connection: &mut PgConnection,
    engine: &PgmqEngine,
    name: &str,
    options: &Options,
    rate: Option<u32>,
) -> Result<(bool, u64)> {
    let on_queue = |failure| failed_on(failure, engine, options);
    let patience = engine.patience();
    // The lock on the replay's row keeps two runs from doing one page.
    let mut tx = connection.begin().await.map_err(on_queue)?;
    let found = locked(&mut tx, name).await.map_err(on_queue)?;
    let begun = match found {
        Some(begun) => begun,
        None => {
            let begin = sqlx::query(AssertSqlSafe(sql::begin(&options.queue)))
                .bind(name)
                .bind(options.queue.as_str())
                .bind(options.target.as_str())
                .bind(options.definition().to_string());
            begin.execute(&mut *tx).await.map_err(on_queue)?;
            locked(&mut tx, name)
                .await
                .map_err(on_queue)?
                .ok_or_else(|| gone(name))?
        }
    };

    if let Err(other) = options.check(name, &begun.definition) {
        // A dropped transaction ends with the next use of the connection, and would lock the row
        // until then.
        tx.rollback().await.map_err(on_queue)?;
        return Err(other);
    }

    // With a limit, a page is at most what one second may replay.
    let page = rate.unwrap_or(PAGE).min(PAGE);
    let statement = options.bind(sql::step(&options.queue, &options.target), &begun);
    let statement = statement.bind(i64::from(page)).bind(name.to_owned());
    let row = limit(patience, statement.fetch_one(&mut *tx))
        .await
        .map_err(on_queue)?;
    let is_finished = row.try_get("is_finished").map_err(on_queue)?;
    let count: i64 = row.try_get("count").map_err(on_queue)?;
    tx.commit().await.map_err(on_queue)?;

    Ok((is_finished, u64::try_from(count).unwrap_or(0)))
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
        }
    }

    /// The replays that were begun.
    #[must_use]
    pub fn replays(&self) -> Replays<'_> {
        Replays::of(self)
    }
}

/// The error of a statement that reads an archive and writes to a queue.
fn failed_on(failure: sqlx::Error, engine: &PgmqEngine, options: &Options) -> Error {
    let Options { queue, target, .. } = options;
    match &failure {
        gone if missing::is(gone, &format!("pgmq.q_{target}")) => engine.failed(failure, target),
        gone if missing::is(gone, &format!("pgmq.a_{queue}")) => {
            retention::missing(queue).with_source(failure)
        }
        _ => failed(failure, engine),
    }
}

fn failed(failure: sqlx::Error, engine: &PgmqEngine) -> Error {
    out_of_reach(failure, Part::Replays, engine.connector().place())
}

fn gone(name: &str) -> Error {
    Error::new(
        ErrorKind::Transient,
        format!("the replay `{name}` was removed just now"),
    )
}
