//! Telling consumers what operators want: what is paused, and what is to be cancelled.
//!
//! One task for each engine reads both: when a notification says that something changed, when the
//! listener has connected again, and every few seconds. It runs only while someone watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::Result;
use ezq_core::engine::{Cancellation, Pause, QueueCancellations, QueuePauses};
use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::tables::{Table, Tables};
use super::{cancellations, pauses};
use crate::config::Place;
use crate::connection::dedicated::{Dedicated, call};
use crate::error::{self, missing};

/// The channel. The payload is the queue's name.
pub(crate) const CHANNEL: &str = "ezq_controls";
/// The longest time between two looks: so late at most is an order heard of whose notification is lost.
const LOOK: Duration = Duration::from_secs(5);

/// What operators want, as far as it was read, and who is told of changes.
#[derive(Default)]
pub(crate) struct OrderBoard {
    state: Mutex<State>,
    /// Held from before a look to after it: of two at once, the older answer must not come last.
    looking: tokio::sync::Mutex<()>,
    /// Something may have changed, or someone new watches.
    signal: Notify,
}

#[derive(Default)]
struct State {
    watched: HashMap<QueueName, Watched>,
    tables: Tables,
    /// How many looks have begun, and the number of the newest one that succeeded.
    begun: u64,
    succeeded: u64,
    /// How many looks have failed in a row.
    failures: u32,
}

/// Who is told of one queue.
struct Watched {
    pauses: watch::Sender<QueuePauses>,
    cancellations: watch::Sender<QueueCancellations>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            pauses: watch::Sender::new(Arc::from([])),
            cancellations: watch::Sender::new(Arc::from([])),
        }
    }
}

/// What one look found.
struct Found {
    tables: Tables,
    pauses: Vec<Pause>,
    cancellations: Vec<(QueueName, Cancellation)>,
}

impl OrderBoard {
    /// The pauses of a queue, from now on. They are read before this answers.
    ///
    /// # Errors
    /// They could not be read.
    pub(crate) async fn watch_pauses(
        &self,
        queue: &QueueName,
        control: &Dedicated,
    ) -> Result<watch::Receiver<QueuePauses>> {
        // Before the look: a change that comes meanwhile is told as well.
        let receiver = self.subscribe(queue, |watched| watched.pauses.subscribe());
        self.look(control).await?;
        self.signal.notify_one();
        Ok(receiver)
    }

    /// The cancellations of a queue, from now on. They are read before this answers.
    ///
    /// # Errors
    /// They could not be read.
    pub(crate) async fn watch_cancellations(
        &self,
        queue: &QueueName,
        control: &Dedicated,
    ) -> Result<watch::Receiver<QueueCancellations>> {
        let receiver = self.subscribe(queue, |watched| watched.cancellations.subscribe());
        self.look(control).await?;
        self.signal.notify_one();
        Ok(receiver)
    }

    fn subscribe<T>(&self, queue: &QueueName, subscribe: impl FnOnce(&Watched) -> T) -> T {
        let mut state = self.lock();
        subscribe(state.watched.entry(queue.clone()).or_default())
    }

    /// Notes that something may have changed.
    pub(crate) fn changed(&self) {
        self.signal.notify_one();
    }

    /// Reads the orders when they may have changed, and every few seconds, until the task is stopped.
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
        state.watched.retain(|_, watched| {
            watched.pauses.receiver_count() > 0 || watched.cancellations.receiver_count() > 0
        });
        !state.watched.is_empty()
    }

    /// Reads the orders, and tells those who watch what has changed. Of many who ask at once, as consumers
    /// that start together do, those who waited share one look.
    async fn look(&self, control: &Dedicated) -> Result<()> {
        let begun_before = self.lock().begun;
        let _looking = self.looking.lock().await;
        let (known, number) = {
            let mut state = self.lock();
            if state.succeeded > begun_before {
                return Ok(());
            }
            state.begun += 1;
            (state.tables, state.begun)
        };

        let looked = call!(control, |connection| read(connection, known))?;
        let found = looked.map_err(|failure| error::of(failure, control.place()))?;

        let mut state = self.lock();
        warn_if_refused(state.tables, found.tables);
        state.tables = found.tables;
        state.succeeded = number;
        for (queue, watched) in &state.watched {
            let pauses = found.pauses.iter();
            let of_queue = pauses.filter(|pause| pause.target.queue == *queue);
            tell(&watched.pauses, of_queue.cloned().collect());

            let cancellations = found.cancellations.iter();
            let of_queue = cancellations.filter(|(name, _)| name == queue);
            let of_queue = of_queue.map(|(_, asked)| asked.clone());
            tell(&watched.cancellations, of_queue.collect());
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
                    ezq_core::private::warn!(
                        %place, error, "cannot read what is paused or cancelled, will try again"
                    );
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves whole values behind, and the next look corrects what is missing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell<T: PartialEq>(sender: &watch::Sender<T>, now: T) {
    sender.send_if_modified(|before| {
        let is_changed = *before != now;
        *before = now;
        is_changed
    });
}

/// Logs once that a table cannot be read.
fn warn_if_refused(before: Tables, now: Tables) {
    let is_new = |before, now| before != Table::Refused && now == Table::Refused;
    if is_new(before.controls, now.controls) {
        ezq_core::private::warn!(
            "the table `ezq.controls` cannot be read, or belongs to a role that is not trusted: \
             what is paused is not heard of here. `ezq_pgmq::setup_sql` prints the grants"
        );
    }
    if is_new(before.cancellations, now.cancellations) {
        ezq_core::private::warn!(
            "the table `ezq.cancellations` cannot be read, or belongs to a role that is not trusted: \
             events that run here cannot be cancelled. `ezq_pgmq::setup_sql` prints the grants"
        );
    }
}

/// Reads both tables. There is nothing where a table is absent or may not be read.
async fn read(connection: &mut PgConnection, known: Tables) -> Result<Found, sqlx::Error> {
    let mut tables = known.probe(&mut *connection).await?;
    let pauses = match tables.controls {
        Table::Readable => or_dropped(pauses::all(&mut *connection).await, &mut tables.controls)?,
        _ => Vec::new(),
    };
    let cancellations = match tables.cancellations {
        Table::Readable => or_dropped(
            cancellations::all(connection).await,
            &mut tables.cancellations,
        )?,
        _ => Vec::new(),
    };
    Ok(Found {
        tables,
        pauses,
        cancellations,
    })
}

/// What was read; nothing if the table was dropped meanwhile.
fn or_dropped<T>(
    read: Result<Vec<T>, sqlx::Error>,
    table: &mut Table,
) -> Result<Vec<T>, sqlx::Error> {
    match read {
        Err(failure) if missing::of_ezq(&failure).is_some() => {
            *table = Table::Absent;
            Ok(Vec::new())
        }
        read => read,
    }
}

#[cfg(feature = "embedded")]
#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::PgmqConfig;
    use crate::connection::connector::{Connector, Planning};
    use crate::embedded::EmbeddedPostgres;

    #[tokio::test]
    async fn consumers_that_start_together_share_a_look() {
        let url = EmbeddedPostgres::shared().await.unwrap().url();
        let connector = Connector::new(&PgmqConfig::url(&url).unwrap());
        let control = Dedicated::new(connector, ("control", Planning::Free), None);
        let control = Arc::new(control);
        let board = Arc::new(OrderBoard::default());

        let mut consumers = JoinSet::new();
        for n in 0..100 {
            let board = Arc::clone(&board);
            let control = Arc::clone(&control);
            consumers.spawn(async move {
                let queue = QueueName::new(&format!("orders_{n}")).unwrap();
                board.watch_pauses(&queue, &control).await.map(|_| ())
            });
        }
        while let Some(watching) = consumers.join_next().await {
            watching.unwrap().unwrap();
        }
        let shared = board.lock().begun;
        assert!(shared < 5, "{shared} looks");

        // What changed after a look began takes another one.
        board.look(&control).await.unwrap();
        assert_eq!(board.lock().begun, shared + 1);
    }
}
