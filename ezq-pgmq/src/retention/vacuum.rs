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
use crate::error::{self, missing};

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
/// How long nobody else is named after a warning: behind short transactions in a row, each would be.
const QUIET: Duration = Duration::from_secs(300);
/// How often a running vacuum looks whether somebody waits for its table. Statements of ezq wait for locks for
/// a second at most.
const MAKES_WAY: Duration = Duration::from_millis(250);
/// How long the end of the engine waits for a vacuum to be cancelled.
const STOPPING: Duration = Duration::from_secs(2);

/// A vacuum of a long queue takes long, so limits of the role must not cut it. That a table is skipped is
/// no warning. The planner's workers are left to others.
const UNLIMITED: &str = "
    SELECT set_config(s.name, CASE s.name WHEN 'client_min_messages' THEN 'error' ELSE '0' END, false)
    FROM pg_catalog.pg_settings s
    WHERE s.name IN ('statement_timeout', 'transaction_timeout', 'client_min_messages')";
const OPTIONS: &str = "SKIP_LOCKED, TRUNCATE false, INDEX_CLEANUP on, PARALLEL 0";

/// Whether a vacuum's session is gone, or has locked a table that another session waits for.
const IS_TO_END: &str = "
    SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1)
        OR EXISTS (
             SELECT FROM pg_catalog.pg_locks own
             JOIN pg_catalog.pg_locks other USING (locktype, database, relation)
             WHERE own.pid = $1 AND own.granted AND own.locktype = 'relation'
               AND own.mode = 'ShareUpdateExclusiveLock' AND NOT other.granted)";
/// The process id may be another session's by now.
const CANCEL: &str = "
    SELECT pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_activity a
    WHERE a.pid = $1 AND starts_with(a.query, 'VACUUM (SKIP_LOCKED')";

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
    /// Who was last named as the holder of dead rows, and when.
    named: Option<(String, Instant)>,
    /// The last failure, which is no warning when it comes again.
    failed: Option<String>,
}

struct LastVacuum {
    /// How many in a row have left most dead rows, or were cut short.
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
            if queues.is_empty() {
                continue;
            }

            match self.look(&mut memory, &queues).await {
                Ok(has_vacuumed) if has_vacuumed || is_busy => memory.pause = EVERY,
                Ok(_) => memory.wait_longer(),
                Err(error) => {
                    memory.waiting.extend(queues);
                    memory.wait_longer();
                    memory.warn_of_failure("queues", &error);
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
        if !tables.iter().any(|table| table.dead >= MANY) {
            memory.forget_holder();
        }

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
        // Those that it does not come to are asked about once more.
        let queues = tables.iter().map(|table| table.queue.clone());
        memory.waiting.extend(queues);
        let is_done = tokio::select! {
            biased;
            _ = stopped.wait_for(|is_stopped| *is_stopped) => false,
            () = self.vacuum_all(&mut session, memory, &tables, horizon) => true,
            () = self.is_to_end(pid) => false,
        };

        if !is_done {
            for table in &tables {
                memory.note_cut_short(table);
            }
            // The connection stays open until then, so that a vacuum which nobody waits for any more ends.
            let cancelled = call!(self.urgent, |connection| {
                sqlx::query(CANCEL).bind(pid).execute(connection)
            })?;
            cancelled.map_err(|failure| self.failed(failure))?;
        }
        session.close().await;
        drop(working);
        Ok(())
    }

    /// Waits until a vacuum is in the way of another session, or its own session is gone: a connection to a
    /// server that vanished may never tell.
    ///
    /// The server ends an autovacuum that another session waits for, but no other vacuum.
    async fn is_to_end(&self, pid: i32) {
        loop {
            sleep(MAKES_WAY).await;
            match self.ask_whether_to_end(pid).await {
                Ok(false) => {}
                Ok(true) => return tracing::debug!("a vacuum makes way for another session"),
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::debug!(error, "whether a vacuum is in the way is not known");
                }
            }
        }
    }

    async fn ask_whether_to_end(&self, pid: i32) -> Result<bool> {
        let answered = call!(self.urgent, |connection| {
            sqlx::query_scalar(IS_TO_END)
                .bind(pid)
                .fetch_one(connection)
        })?;
        answered.map_err(|failure| self.failed(failure))
    }

    async fn vacuum_all(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        tables: &[Table],
        horizon: Option<&Horizon>,
    ) {
        let connection = &mut session.connection;
        let unlimited = sqlx::query(UNLIMITED).execute(&mut *connection).await;
        if let Err(failure) = unlimited {
            return memory.warn_of_failure("queues", &self.failed(failure));
        }

        let mut has_failed = false;
        for table in tables {
            let place = table.place();
            match timed(vacuum_one(connection, table)).await {
                Ok((took, Some(left))) => {
                    let dead = table.dead;
                    tracing::debug!(table = place, dead, left, ?took, "vacuumed");
                    memory.note(table, horizon, left, took);
                }
                Ok((_, None)) => {
                    tracing::debug!(table = place, "not vacuumed: another session has locked it");
                    memory.note_cut_short(table);
                }
                Err(failure) if missing::of_pgmq(&failure).is_some() => {
                    tracing::debug!(table = place, "not vacuumed: it was dropped");
                }
                Err(failure) => {
                    let is_usable = error::keeps_connection(&failure);
                    has_failed = true;
                    memory.note_cut_short(table);
                    memory.warn_of_failure(&place, &self.failed(failure));
                    if !is_usable {
                        return;
                    }
                }
            }
        }
        if !has_failed {
            memory.failed = None;
        }
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

/// Vacuums a table, and answers how many dead rows it still has. `None` if it was skipped, because another
/// session has locked it or vacuums it.
async fn vacuum_one(
    connection: &mut PgConnection,
    table: &Table,
) -> Result<Option<i64>, sqlx::Error> {
    let (before, _) = dead_rows::after_vacuums(connection, table).await?;
    let statement = format!("VACUUM ({OPTIONS}) {}", table.place());
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut *connection)
        .await?;
    let (vacuums, left) = dead_rows::after_vacuums(connection, table).await?;
    Ok((vacuums > before).then_some(left))
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
        match left > table.dead / 2 {
            true => self.note_in_vain(table, horizon, took),
            false => {
                let last = LastVacuum {
                    in_vain: 0,
                    xmin: None,
                    next: Instant::now() + took.saturating_mul(PAUSES),
                };
                self.vacuumed.insert(table.place(), last);
            }
        }
    }

    /// Notes that a vacuum was skipped, failed, or ended before its time.
    fn note_cut_short(&mut self, table: &Table) {
        self.note_in_vain(table, None, Duration::ZERO);
    }

    /// The next one comes later each time, and not before the horizon has moved if that is known.
    fn note_in_vain(&mut self, table: &Table, horizon: Option<&Horizon>, took: Duration) {
        self.waiting.insert(table.queue.clone());
        let before = self.vacuumed.get(&table.place());
        let so_far = before.map_or(0, |last| last.in_vain);
        let pause = EVERY.saturating_mul(1 << so_far.min(10)).min(LONGEST);
        let last = LastVacuum {
            in_vain: so_far.saturating_add(1),
            xmin: horizon.map(|horizon| horizon.xmin.clone()),
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
        // It may be gone at the next look.
        let Some(holder) = holder else {
            return;
        };
        let held_by = holder.to_string();
        let is_told = self
            .named
            .as_ref()
            .is_some_and(|(named, at)| *named == held_by || at.elapsed() < QUIET);
        if is_told {
            return;
        }

        let remedy = holder.remedy();
        ezq_core::private::warn!(
            queue = %table.queue,
            dead_rows = table.dead,
            held_by,
            remedy,
            "vacuum cannot remove the dead rows of a queue, and claims get slower: {held_by} may still see \
             them. To end that: {remedy}"
        );
        self.named = Some((held_by, Instant::now()));
    }

    /// Whoever holds many dead rows next is named, even if it is the same one.
    fn forget_holder(&mut self) {
        if let Some((named, _)) = &mut self.named {
            named.clear();
        }
    }

    /// Warns of a failure once, until another one comes.
    fn warn_of_failure(&mut self, of: &str, error: &ezq_core::Error) {
        let error = error_chain(error);
        let failed = Some(format!("{of}: {error}"));
        if self.failed == failed {
            return tracing::debug!(of, error, "vacuuming failed again, will try again");
        }
        ezq_core::private::warn!(of, error, "vacuuming failed, will try again");
        self.failed = failed;
    }

    fn wait_longer(&mut self) {
        self.pause = (self.pause * 2).clamp(EVERY, LONGEST);
    }
}
