//! Vacuuming the tables of queues, in the background.
//!
//! Autovacuum looks for work once in `autovacuum_naptime`, a minute by default. In that time a busy queue
//! leaves a million dead rows. So where the role may, the engine vacuums by itself, by the number of dead
//! rows: those that this process [has left](super::dead_rows), then those that the server counts.
//!
//! - A vacuum runs on a connection of its own, and skips a table that another session has locked or vacuums.
//! - It makes way for whoever waits for its table: behind a command that waits, everybody else would.
//! - It does not cut empty pages off the end of a table: that needs a lock which stops everybody.
//! - One that leaves most dead rows is repeated only once the [horizon](super::horizon) has moved, and later
//!   each time.
//! - Its failure is logged and disturbs nobody.
//! - An idle engine asks nothing, unless rows wait for the horizon: then once a minute.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ezq_core::Result;
use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::dead_rows::{self, DeadRows, Table};
use super::horizon::{self, Horizon};
use crate::connection::connector::{Planning, Session};
use crate::connection::dedicated::{Dedicated, call, timed};
use crate::error;

/// The server is asked at most so often.
const EVERY: Duration = Duration::from_secs(5);
/// And this seldom about rows that wait for the horizon in an engine with nothing to do, or after failures.
const LONGEST: Duration = Duration::from_secs(60);
/// After a vacuum that took t, the next one of the table waits so many times t.
const PAUSES: u32 = 5;
/// From so many dead rows on, a claim from the front takes tens of milliseconds: worth a warning.
const MANY: i64 = 100_000;
/// What is older than this and holds the horizon is named. Shorter transactions are everyday life, and no
/// statement of ezq's own takes so long.
const OLD: Duration = Duration::from_secs(30);
/// After so many vacuums in vain, dead rows are held by somebody whom the role does not see.
const IN_VAIN: u32 = 4;
/// How often a running vacuum looks whether somebody waits for its table.
const MAKES_WAY: Duration = Duration::from_secs(1);
/// How long the end of the engine waits for a vacuum to be cancelled.
const STOPPING: Duration = Duration::from_secs(2);

/// A vacuum of a long queue takes long, so limits of the role must not cut it. That a table is skipped is
/// no warning. The planner's workers are left to others.
const UNLIMITED: &str = "
    SELECT set_config(s.name, CASE s.name WHEN 'client_min_messages' THEN 'error' ELSE '0' END, false)
    FROM pg_catalog.pg_settings s
    WHERE s.name IN ('statement_timeout', 'transaction_timeout', 'client_min_messages')";
const OPTIONS: &str = "SKIP_LOCKED, TRUNCATE false, INDEX_CLEANUP on, PARALLEL 0";

/// Whether a session waits for one of these tables.
const WAITS: &str = "
    SELECT EXISTS (
      SELECT FROM pg_catalog.pg_locks l JOIN unnest($1::text[]) AS t (name) ON l.relation = to_regclass(t.name)
      WHERE NOT l.granted AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                            WHERE d.datname = current_database()))";

/// Vacuums the tables in which this process leaves dead rows.
pub(crate) struct Vacuum {
    control: Arc<Dedicated>,
    /// Cancels a vacuum.
    urgent: Arc<Dedicated>,
    pub(crate) dead_rows: DeadRows,
    /// The engine is being closed.
    is_stopped: watch::Sender<bool>,
    /// Held while a vacuum runs.
    at_work: Mutex<()>,
}

/// What the task remembers from look to look.
#[derive(Default)]
struct Memory {
    /// The last vacuum of each table that has, or had, many dead rows.
    vacuumed: HashMap<String, LastVacuum>,
    /// Queues whose dead rows wait for the horizon, or for another try.
    waiting: HashSet<QueueName>,
    /// How long they wait.
    pause: Duration,
    /// The horizon, and when a look first found it there.
    stands: Option<(String, Instant)>,
    /// Who was last named as the holder of dead rows.
    named: Option<String>,
}

struct LastVacuum {
    /// How many in a row have left most dead rows.
    in_vain: u32,
    /// Where the horizon was.
    xmin: Option<String>,
    /// When the next one may begin.
    next: Instant,
}

impl Vacuum {
    pub(crate) fn new(control: Arc<Dedicated>, urgent: Arc<Dedicated>) -> Self {
        Self {
            control,
            urgent,
            dead_rows: DeadRows::default(),
            is_stopped: watch::Sender::new(false),
            at_work: Mutex::default(),
        }
    }

    /// Vacuums whenever there is need, until the task is stopped.
    pub(crate) async fn run_forever(self: Arc<Self>) {
        let mut memory = Memory::default();
        loop {
            match memory.waiting.is_empty() {
                true => self.dead_rows.wait().await,
                // Nobody may handle anything any more, and the rows be there still.
                false => {
                    let rest = memory.pause.saturating_sub(EVERY);
                    let _ = timeout(rest, self.dead_rows.wait()).await;
                }
            }

            let busy = self.dead_rows.take();
            let is_busy = !busy.is_empty();
            let waited = std::mem::take(&mut memory.waiting);
            // Asked about once more: the server's statistics are a little late.
            memory.waiting.extend(busy.iter().cloned());
            let queues: HashSet<QueueName> = busy.into_iter().chain(waited).collect();
            let queues: Vec<QueueName> = queues.into_iter().collect();

            match self.look(&mut memory, &queues).await {
                Ok(has_vacuumed) if has_vacuumed || is_busy => memory.pause = EVERY,
                Ok(_) => memory.wait_longer(),
                Err(error) => {
                    memory.waiting.extend(queues);
                    memory.wait_longer();
                    let error = error_chain(&error);
                    ezq_core::private::warn!(error, "vacuuming queues failed, will try again");
                    sleep(memory.pause).await;
                }
            }
            sleep(EVERY).await;
        }
    }

    /// Ends a running vacuum, and lets none begin.
    pub(crate) async fn stop(&self) {
        self.is_stopped.send_replace(true);
        // The task has it until the vacuum is cancelled.
        let _ = timeout(STOPPING, self.at_work.lock()).await;
    }

    /// Asks about queues, and vacuums what needs it. Answers whether there was any.
    async fn look(&self, memory: &mut Memory, queues: &[QueueName]) -> Result<bool> {
        let asked = call!(self.control, |connection| ask(connection, queues))?;
        let (tables, horizon) = asked.map_err(|failure| self.failed(failure))?;
        memory.note_horizon(horizon.as_ref());

        let mut due = Vec::new();
        for table in tables {
            if !table.is_worth_it() {
                memory.vacuumed.remove(&table.place());
                continue;
            }
            if table.may_vacuum && memory.is_due(&table, horizon.as_ref()) {
                due.push(table);
                continue;
            }
            match table.may_vacuum {
                true => {
                    memory.waiting.insert(table.queue.clone());
                }
                false => tracing::debug!(
                    table = table.place(),
                    dead = table.dead,
                    "left to autovacuum: this role may not vacuum it"
                ),
            }
            memory.warn_of_holder(&table, horizon.as_ref());
        }

        if due.is_empty() {
            return Ok(false);
        }
        self.vacuum(memory, due, horizon.as_ref()).await?;
        Ok(true)
    }

    /// Vacuums tables one after another, on a connection of their own.
    async fn vacuum(
        &self,
        memory: &mut Memory,
        tables: Vec<Table>,
        horizon: Option<&Horizon>,
    ) -> Result<()> {
        let mut session = self.control.connector().open(Planning::Free).await?;
        let working = self.at_work.lock().await;
        let pid = session.pid;
        let mut stopped = self.is_stopped.subscribe();
        let waiting: HashSet<QueueName> = tables.iter().map(|table| table.queue.clone()).collect();
        let places: Vec<String> = tables.iter().map(Table::place).collect();
        let done = tokio::select! {
            biased;
            _ = stopped.wait_for(|is_stopped| *is_stopped) => None,
            done = self.vacuum_all(&mut session, memory, tables, horizon) => Some(done),
            () = self.somebody_waits(&places) => None,
        };

        if done.is_none() {
            // The connection stays open until then: its process id must not become another session's.
            let cancelled = call!(self.urgent, |connection| {
                sqlx::query("SELECT pg_cancel_backend($1)")
                    .bind(pid)
                    .execute(connection)
            })?;
            cancelled.map_err(|failure| self.failed(failure))?;
            memory.waiting.extend(waiting);
        }
        session.close().await;
        drop(working);
        done.unwrap_or(Ok(()))
    }

    /// Waits until a session waits for one of the tables that a vacuum has locked.
    ///
    /// The server ends an autovacuum for such a session, but no other vacuum.
    async fn somebody_waits(&self, tables: &[String]) {
        loop {
            sleep(MAKES_WAY).await;
            match self.is_in_the_way(tables).await {
                Ok(false) => {}
                Ok(true) => return tracing::debug!("a vacuum makes way for another session"),
                Err(error) => {
                    let error = error_chain(&error);
                    return tracing::debug!(error, "a vacuum ends: who waits for it is not known");
                }
            }
        }
    }

    async fn is_in_the_way(&self, tables: &[String]) -> Result<bool> {
        let waits = call!(self.urgent, |connection| {
            sqlx::query_scalar(WAITS).bind(tables).fetch_one(connection)
        })?;
        waits.map_err(|failure| self.failed(failure))
    }

    async fn vacuum_all(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        tables: Vec<Table>,
        horizon: Option<&Horizon>,
    ) -> Result<()> {
        let connection = &mut session.connection;
        let unlimited = sqlx::query(UNLIMITED).execute(&mut *connection).await;
        unlimited.map_err(|failure| self.failed(failure))?;

        for table in tables {
            let place = table.place();
            match timed(vacuum_one(connection, &table)).await {
                Ok((took, left)) => {
                    let dead = table.dead;
                    tracing::debug!(table = place, dead, left, ?took, "vacuumed");
                    memory.note(&table, horizon, left, took);
                }
                Err(failure) => {
                    let is_usable = error::keeps_connection(&failure);
                    let error = error_chain(&self.failed(failure));
                    ezq_core::private::warn!(
                        table = place,
                        error,
                        "vacuuming a queue failed, will try again"
                    );
                    memory.note(&table, None, table.dead, Duration::ZERO);
                    if !is_usable {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn failed(&self, failure: sqlx::Error) -> ezq_core::Error {
        error::of(failure, self.control.place())
    }
}

/// The tables of queues, and the horizon if any of them has many dead rows.
async fn ask(
    connection: &mut PgConnection,
    queues: &[QueueName],
) -> Result<(Vec<Table>, Option<Horizon>), sqlx::Error> {
    let tables = dead_rows::tables(&mut *connection, queues).await?;
    let horizon = match tables.iter().any(Table::is_worth_it) {
        true => horizon::oldest(connection, (OLD, 0)).await?,
        false => None,
    };
    Ok((tables, horizon))
}

/// Vacuums a table, and answers how many dead rows it still has.
async fn vacuum_one(connection: &mut PgConnection, table: &Table) -> Result<i64, sqlx::Error> {
    let statement = format!("VACUUM ({OPTIONS}) {}", table.place());
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut *connection)
        .await?;
    dead_rows::dead(connection, table).await
}

impl Memory {
    fn note_horizon(&mut self, horizon: Option<&Horizon>) {
        let xmin = horizon.map(|horizon| &horizon.xmin);
        let before = self.stands.as_ref().map(|(xmin, _)| xmin);
        if xmin != before {
            self.stands = xmin.map(|xmin| (xmin.clone(), Instant::now()));
        }
    }

    /// Whether a vacuum may remove what the last one has left.
    fn is_due(&self, table: &Table, horizon: Option<&Horizon>) -> bool {
        let Some(last) = self.vacuumed.get(&table.place()) else {
            return true;
        };
        let has_moved = match (&last.xmin, horizon) {
            (Some(then), Some(now)) => *then != now.xmin,
            _ => true,
        };
        has_moved && Instant::now() >= last.next
    }

    /// Notes what a vacuum has left.
    fn note(&mut self, table: &Table, horizon: Option<&Horizon>, left: i64, took: Duration) {
        let is_in_vain = left > table.dead / 2;
        if is_in_vain {
            self.waiting.insert(table.queue.clone());
        }

        let before = self.vacuumed.get(&table.place());
        let in_vain = match is_in_vain {
            true => before.map_or(0, |last| last.in_vain).saturating_add(1),
            false => 0,
        };
        let pause = match in_vain {
            0 => Duration::ZERO,
            _ => EVERY
                .saturating_mul(1 << (in_vain - 1).min(10))
                .min(LONGEST),
        };

        let last = LastVacuum {
            in_vain,
            xmin: horizon
                .filter(|_| is_in_vain)
                .map(|horizon| horizon.xmin.clone()),
            next: Instant::now() + pause.max(took.saturating_mul(PAUSES)),
        };
        self.vacuumed.insert(table.place(), last);
    }

    /// Says once who holds the many dead rows of a table.
    fn warn_of_holder(&mut self, table: &Table, horizon: Option<&Horizon>) {
        if table.dead < MANY {
            return;
        }
        // The transaction of a standby has no time here: looks tell for how long it has held the horizon.
        let stands = self.stands.as_ref();
        let has_stood = stands.is_some_and(|(_, since)| since.elapsed() >= OLD);
        let holder = horizon
            .and_then(|horizon| horizon.holder.as_ref())
            .filter(|holder| holder.has_time() || has_stood);
        let last = self.vacuumed.get(&table.place());
        let is_hidden = last.is_some_and(|last| last.in_vain >= IN_VAIN);
        let (held_by, remedy) = match holder {
            Some(holder) => (holder.to_string(), holder.remedy()),
            None if is_hidden => (
                "a session that this role does not see".to_owned(),
                "grant `pg_read_all_stats` to the role, or see the runbook about an old snapshot"
                    .to_owned(),
            ),
            // It may be gone at the next look.
            None => return,
        };

        if self.named.as_ref() != Some(&held_by) {
            ezq_core::private::warn!(
                queue = %table.queue,
                dead_rows = table.dead,
                held_by,
                remedy,
                "vacuum cannot remove the dead rows of a queue, and claims get slower: {held_by} may still \
                 see them. To end that: {remedy}"
            );
            self.named = Some(held_by);
        }
    }

    fn wait_longer(&mut self) {
        self.pause = (self.pause * 2).clamp(EVERY, LONGEST);
    }
}
