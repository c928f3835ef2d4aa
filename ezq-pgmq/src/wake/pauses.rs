//! Telling consumers what is paused.
//!
//! One task for each engine reads the pauses: when a notification says that they changed, when the
//! listener has connected again, and every few seconds. It runs only while someone watches. The table
//! is made when something is paused for the first time, so it may be absent: then nothing is paused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::{Pause, PauseTarget, QueuePauses};
use ezq_core::error::error_chain;
use ezq_core::message::{HandlerName, QueueName};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::config::Place;
use crate::connection::dedicated::{Dedicated, call};
use crate::error::{self, missing};
use crate::message::encoding;
use crate::schema::foreign_owner;

/// The channel. The payload is the queue's name.
pub(crate) const CHANNEL: &str = "ezq_controls";
/// The longest time between two looks: so late at most is a pause heard of whose notification is lost.
const LOOK: Duration = Duration::from_secs(5);

const READ: &str = "
    SELECT c.queue, c.handler, c.paused_at, c.paused_by, c.reason
    FROM ezq.controls c WHERE c.paused_at IS NOT NULL ORDER BY c.queue, c.handler";

/// Whether the table can be read; NULL without the table. The catalogue needs no right.
const PROBE: &str = "
    SELECT (SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c
            WHERE c.oid = pg_catalog.to_regclass('ezq.controls'))";

/// What is paused, as far as it was read, and who is told of changes.
#[derive(Default)]
pub(crate) struct PauseBoard {
    state: Mutex<State>,
    /// Held from before a look to after it: of two at once, the older answer must not come last.
    looking: tokio::sync::Mutex<()>,
    /// The pauses may have changed, or someone new watches.
    signal: Notify,
}

#[derive(Default)]
struct State {
    watched: HashMap<QueueName, watch::Sender<QueuePauses>>,
    table: Table,
    /// How many looks have failed in a row.
    failures: u32,
}

/// What is known of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Table {
    /// It was absent when it was last looked for, or was not looked for.
    #[default]
    Absent,
    Readable,
    /// It may not be read, or belongs to a role that is not trusted. That was logged.
    Refused,
}

impl PauseBoard {
    /// The pauses of a queue, from now on. They are read before this answers.
    ///
    /// # Errors
    /// They could not be read.
    pub(crate) async fn watch(
        &self,
        queue: &QueueName,
        control: &Dedicated,
    ) -> Result<watch::Receiver<QueuePauses>> {
        // Before the look: a change that comes meanwhile is told as well.
        let receiver = {
            let mut state = self.lock();
            let sender = state.watched.entry(queue.clone());
            sender
                .or_insert_with(|| watch::Sender::new(Arc::from([])))
                .subscribe()
        };
        self.look(control).await?;
        self.signal.notify_one();
        Ok(receiver)
    }

    /// Notes that the pauses may have changed.
    pub(crate) fn changed(&self) {
        self.signal.notify_one();
    }

    /// Reads the pauses when they may have changed, and every few seconds, until the task is stopped.
    pub(crate) async fn keep_forever(&self, control: Arc<Dedicated>) {
        loop {
            if self.is_watched() {
                let answer = self.look(&control).await;
                self.note(&answer, control.place());
            }

            let is_watched = self.is_watched();
            // With jitter the processes of a fleet do not look all at once.
            let pause = LOOK.mul_f64(rand::random_range(0.8..1.0));
            tokio::select! {
                () = self.signal.notified() => {}
                () = sleep(pause), if is_watched => {}
            }
        }
    }

    /// Whether anyone watches. Queues that nobody watches any more are forgotten.
    fn is_watched(&self) -> bool {
        let mut state = self.lock();
        state
            .watched
            .retain(|_, sender| sender.receiver_count() > 0);
        !state.watched.is_empty()
    }

    /// Reads the pauses, and tells those who watch what has changed.
    async fn look(&self, control: &Dedicated) -> Result<()> {
        let _looking = self.looking.lock().await;
        let known = self.lock().table;
        let looked = call!(control, |connection| read(connection, known))?;
        let (table, pauses) = looked.map_err(|failure| error::of(failure, control.place()))?;

        let mut state = self.lock();
        if table == Table::Refused && state.table != table {
            ezq_core::private::warn!(
                "the table `ezq.controls` cannot be read, or belongs to a role that is not trusted: \
                 what is paused is not heard of here. `ezq_pgmq::setup_sql` prints the grants"
            );
        }
        state.table = table;
        for (queue, sender) in &state.watched {
            let now: QueuePauses = pauses
                .iter()
                .filter(|pause| pause.target.queue == *queue)
                .cloned()
                .collect();
            sender.send_if_modified(|before| {
                let is_changed = *before != now;
                *before = now;
                is_changed
            });
        }
        Ok(())
    }

    /// Logs when looks fail again and again: one that fails may only have met a connection that was cut.
    /// Until they succeed, what is known stays.
    fn note(&self, answer: &Result<()>, place: &Place) {
        let mut state = self.lock();
        match answer {
            Ok(()) => state.failures = 0,
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let error = error_chain(error);
                if state.failures == 2 {
                    ezq_core::private::warn!(%place, error, "cannot read what is paused, will try again");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves whole values behind, and the next look corrects what is missing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pauses; none where the table is absent or may not be read.
async fn read(
    connection: &mut PgConnection,
    known: Table,
) -> Result<(Table, Vec<Pause>), sqlx::Error> {
    if known != Table::Readable {
        let table = probe(&mut *connection).await?;
        if table != Table::Readable {
            return Ok((table, Vec::new()));
        }
    }

    match all(connection).await {
        Ok(pauses) => Ok((Table::Readable, pauses)),
        // It was dropped: nothing is paused.
        Err(failure) if missing::of_ezq(&failure).is_some() => Ok((Table::Absent, Vec::new())),
        Err(failure) => Err(failure),
    }
}

async fn probe(connection: &mut PgConnection) -> Result<Table, sqlx::Error> {
    let is_readable: Option<bool> = sqlx::query_scalar(PROBE)
        .fetch_one(&mut *connection)
        .await?;
    Ok(match is_readable {
        None => Table::Absent,
        Some(false) => Table::Refused,
        // Reading a view runs its owner's code with the reader's rights.
        Some(true) => match foreign_owner(connection).await? {
            None => Table::Readable,
            Some(_) => Table::Refused,
        },
    })
}

/// Every pause, sorted by queue, those of whole queues first. `None` if the table may not be read.
pub(crate) async fn list(connection: &mut PgConnection) -> Result<Option<Vec<Pause>>, sqlx::Error> {
    let (table, pauses) = read(connection, Table::Absent).await?;
    Ok((table != Table::Refused).then_some(pauses))
}

async fn all(connection: &mut PgConnection) -> Result<Vec<Pause>, sqlx::Error> {
    let rows = sqlx::query(READ).fetch_all(connection).await?;
    // Another client may have written a name that no queue can have.
    let pauses = rows.iter().map(pause).collect::<Result<Vec<_>, _>>()?;
    Ok(pauses.into_iter().flatten().collect())
}

fn pause(row: &PgRow) -> Result<Option<Pause>, sqlx::Error> {
    let Ok(queue) = QueueName::new(row.try_get("queue")?) else {
        return Ok(None);
    };
    let handler: &str = row.try_get("handler")?;
    let target = match handler {
        "" => PauseTarget::queue(queue),
        written => {
            let handler = HandlerName::from(&*encoding::original(written));
            PauseTarget::handler(queue, handler)
        }
    };

    let by: Option<&str> = row.try_get("paused_by")?;
    let by = encoding::original(by.unwrap_or_default()).into_owned();
    let reason: Option<String> = row.try_get("reason")?;
    Ok(Some(
        Pause::new(target, row.try_get("paused_at")?, by).reason(reason),
    ))
}
