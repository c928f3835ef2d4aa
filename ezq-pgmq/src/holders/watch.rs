//! The task that keeps an engine's sign, and takes over from those that are gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep};

use super::GRACE;
use super::board::HolderBoard;
use super::registry::{self, Look, Missing};
use crate::claim::restart_grace;
use crate::connection::connector::Connector;
use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::schema::{Part, Schema, out_of_reach};
use crate::sql::leases::Sign;
use crate::wake::Wake;

/// How often an engine looks while others seem to have leased something, at least.
const ROUND: Duration = Duration::from_millis(700);
/// How often it looks otherwise: another may have leased something since.
const IDLE_ROUND: Duration = Duration::from_millis(4500);
/// After a failure of the connection. Connecting again has pauses of its own.
const PAUSE: Duration = Duration::from_millis(50);
/// After another failure.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// Where the table is missing and must not be made, or a right on it is.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A queue is searched for a gone holder's messages again after so long: a claim may have committed behind
/// its death.
const AGAIN: Duration = Duration::from_secs(2);
/// How many signs are tried. Among a thousand engines, one of 131 tries meets another's sign.
const TRIES: u32 = 10;

/// What the task works with.
pub(crate) struct Watcher {
    pub(crate) board: Arc<HolderBoard>,
    pub(crate) table: Schema,
    pub(crate) connector: Connector,
    /// For making the table.
    pub(crate) control: Arc<Dedicated>,
    /// For looking: its statements are short, and planned by index.
    pub(crate) renew: Arc<Dedicated>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) manage_schema: bool,
}

/// A queue, and a holder that went missing at a time.
type Search = (QueueName, Sign, DateTime<Utc>);

/// What the task remembers from round to round.
#[derive(Default)]
struct Memory {
    /// The session that looked last.
    session: Option<i32>,
    /// When this engine last found its own session lost.
    cut_at: Option<Instant>,
    /// Searches that found nothing more: how many times, and when last.
    searched: HashMap<Search, (u32, Instant)>,
    /// That the table is out of reach has been told.
    is_told: bool,
}

impl Watcher {
    /// Looks as long as the engine leases, until the task is stopped.
    pub(crate) async fn run_forever(self) {
        let mut memory = Memory::default();
        loop {
            self.board.used().await;
            let pause = match self.round(&mut memory).await {
                Ok(next) => next,
                Err(error) => self.after(&error, &mut memory),
            };

            // With jitter the processes of a fleet do not look all at once.
            let pause = pause.mul_f64(rand::random_range(0.8..1.0));
            tokio::select! {
                () = sleep(pause) => {}
                // To come back before anybody takes this engine for gone.
                () = self.board.sign.lost() => {}
                () = self.board.others_lease() => {}
            }
        }
    }

    /// One look, and what follows from it. Returns how long to wait for the next one.
    async fn round(&self, memory: &mut Memory) -> Result<Duration> {
        self.table
            .ensure(&self.control, &self.connector, self.manage_schema)
            .await?;
        let own = match self.board.sign.get() {
            Some(own) => own,
            None => self.enter().await?,
        };
        let lease = self.board.longest_lease();

        let looked = call!(self.renew, |connection| registry::look(
            connection, own, lease
        ))?;
        let look = looked.map_err(|failure| self.failed(failure))?;
        if !look.is_entered {
            // It was away for so long that the others forgot it.
            let entered = call!(self.renew, |connection| registry::enter(
                connection, own, lease
            ))?;
            entered.map_err(|failure| self.failed(failure))?;
        }

        if memory
            .session
            .replace(look.session)
            .is_some_and(|last| last != look.session)
        {
            memory.cut_at = Some(Instant::now());
        }
        Ok(self.judge(&look, memory).await)
    }

    /// Takes over from those that had their time to come back. Returns when to look again.
    async fn judge(&self, look: &Look, memory: &mut Memory) -> Duration {
        memory.searched.retain(|(_, sign, since), _| {
            look.missing
                .iter()
                .any(|missing| missing.sign == *sign && missing.since == *since)
        });

        let mut next = match self.board.is_leased() {
            true => ROUND,
            false => IDLE_ROUND,
        };
        for missing in &look.missing {
            let left = GRACE.saturating_sub(missing.known_for);
            if !left.is_zero() {
                // The jitter shortens it.
                next = next.min(left.mul_f64(1.25) + PAUSE);
            } else if !self.may_be_coming_back(missing, memory) {
                for queue in self.board.queues() {
                    self.search(queue, *missing, memory).await;
                }
            }
        }
        next
    }

    /// Whether what cut this engine off has cut the other one off as well, and it may be on its way back.
    fn may_be_coming_back(&self, missing: &Missing, memory: &Memory) -> bool {
        let connecting = self.connector.connect_timeout().saturating_add(GRACE);
        let grace = restart_grace(missing.lease).max(connecting);
        memory.cut_at.is_some_and(|cut| cut.elapsed() < grace)
    }

    /// Searches a queue for a gone holder's messages, unless that was done.
    async fn search(&self, queue: QueueName, gone: Missing, memory: &mut Memory) {
        let search = (queue, gone.sign, gone.since);
        let (times, last) = memory
            .searched
            .get(&search)
            .copied()
            .unwrap_or((0, Instant::now()));
        if times > 1 || times == 1 && last.elapsed() < AGAIN {
            return;
        }

        let queue = &search.0;
        match self.take_over(queue, gone).await {
            Ok(true) => {
                memory.searched.insert(search, (times + 1, Instant::now()));
            }
            // The next round goes on with what is locked now.
            Ok(false) => {}
            // A queue that is locked or gone does not keep the others from being looked at.
            Err(failure) => {
                if failure.kind() == ErrorKind::QueueMissing {
                    self.board.forget(queue);
                }
                let failure = error_chain(&failure);
                tracing::debug!(%queue, failure, "could not take over from a worker that is gone; tries again");
            }
        }
    }

    /// Makes everything due that a gone holder has leased in one queue. Returns whether nothing is left.
    async fn take_over(&self, queue: &QueueName, gone: Missing) -> Result<bool> {
        let mut locked = 0;
        loop {
            let taken = call!(self.renew, |connection| registry::take_over(
                connection, queue, gone, locked
            ))?;
            let place = self.connector.place();
            let taken = taken.map_err(|failure| error::on_queue(failure, queue, place))?;
            if taken.count > 0 {
                let count = taken.count;
                tracing::info!(%queue, count, "took over messages of a worker that is gone");
                self.wake.announce(queue);
            }

            locked += taken.locked;
            if !taken.has_more {
                return Ok(locked == 0);
            }
        }
    }

    /// Gives the engine a sign.
    async fn enter(&self) -> Result<Sign> {
        let lease = self.board.longest_lease();
        for _ in 0..TRIES {
            let sign = Sign::random();
            let entered = call!(self.renew, |connection| registry::enter(
                connection, sign, lease
            ))?;
            if entered.map_err(|failure| self.failed(failure))? {
                // The look that follows has its session hold the sign, long before anybody could take it for
                // missing.
                self.board.sign.set(sign);
                self.board.decide();
                return Ok(sign);
            }
        }

        let text = format!("{TRIES} random signs belong to others already");
        Err(Error::new(ErrorKind::Engine, text))
    }

    fn failed(&self, failure: sqlx::Error) -> Error {
        if error::missing::of_ezq(&failure).is_some() {
            self.table.forget();
        }
        out_of_reach(failure, Part::Holders, self.connector.place())
    }

    /// How long to wait after a failure. That the table is out of reach is told once.
    fn after(&self, error: &Error, memory: &mut Memory) -> Duration {
        let failure = error_chain(error);
        if error.kind() != ErrorKind::Connection {
            self.board.decide();
        }

        match error.kind() {
            ErrorKind::SchemaMissing | ErrorKind::Permission => {
                if !std::mem::replace(&mut memory.is_told, true) {
                    tracing::info!(
                        failure,
                        "what a worker that is killed holds is handled when its lease ends, and not sooner"
                    );
                }
                LONGEST_PAUSE
            }
            ErrorKind::Connection => {
                memory.cut_at = Some(Instant::now());
                tracing::debug!(
                    failure,
                    "cannot look for workers that are gone; tries again"
                );
                PAUSE
            }
            _ => {
                tracing::debug!(
                    failure,
                    "could not look for workers that are gone; tries again"
                );
                LONG_PAUSE
            }
        }
    }
}
