//! The task that keeps an engine's sign, and takes over from those that are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use tokio::time::sleep;

use super::board::HolderBoard;
use super::{GRACE, registry};
use crate::claim::restart_grace;
use crate::connection::connector::Connector;
use crate::connection::dedicated::{Dedicated, call};
use crate::error;
use crate::schema::{Part, Schema, out_of_reach};
use crate::sql::leases::Sign;
use crate::wake::Wake;

/// How often an engine looks while something is leased.
const ROUND: Duration = Duration::from_millis(500);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(200);
/// Where the table is missing and must not be made, or a right on it is.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// How many signs are tried. That one belongs to somebody else has, among a thousand engines, a probability
/// of 1 in 131.
const TRIES: u32 = 10;

/// What the task works with.
pub(crate) struct Watcher {
    pub(crate) board: Arc<HolderBoard>,
    pub(crate) table: Schema,
    pub(crate) connector: Connector,
    pub(crate) control: Arc<Dedicated>,
    pub(crate) renew: Arc<Dedicated>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) manage_schema: bool,
    pub(crate) restart_grace: Option<Duration>,
}

impl Watcher {
    /// Looks every half second while something is leased, until the task is stopped.
    pub(crate) async fn run_forever(self) {
        let mut swept = HashSet::new();
        let mut is_told = false;
        loop {
            self.board.leased().await;
            let pause = match self.round(&mut swept).await {
                Ok(next) => next,
                Err(error) => self.after(&error, &mut is_told),
            };
            // With jitter the processes of a fleet do not look all at once.
            sleep(pause.mul_f64(rand::random_range(0.8..1.0))).await;
        }
    }

    /// One look, and what follows from it. Returns how long to wait for the next one.
    async fn round(&self, swept: &mut HashSet<(QueueName, Sign)>) -> Result<Duration> {
        self.table
            .ensure(&self.control, &self.connector, self.manage_schema)
            .await?;
        let own = match self.board.sign.get() {
            Some(own) => own,
            None => self.enter().await?,
        };
        let lease = self.board.longest_lease();

        let looked = call!(self.control, |connection| registry::look(
            connection, own, lease
        ))?;
        let look = looked.map_err(|failure| self.failed(failure))?;
        if !look.is_entered {
            // It was away for so long that the others forgot it.
            let renewed = call!(self.control, |connection| registry::renew(
                connection, own, lease
            ))?;
            renewed.map_err(|failure| self.failed(failure))?;
        }

        swept.retain(|(_, sign)| look.missing.iter().any(|(missing, _)| missing == sign));
        let grace = self.restart_grace.unwrap_or_else(|| restart_grace(lease));
        if self.board.sign.was_cut_within(grace) {
            return Ok(ROUND);
        }

        let gone = look.missing.iter().filter(|(_, missed)| *missed >= GRACE);
        let gone: Vec<Sign> = gone.map(|(sign, _)| *sign).collect();
        for queue in self.board.queues() {
            // A queue that is locked or gone does not keep the others from being looked at.
            if let Err(failure) = self.take_over(&queue, &gone, swept).await {
                self.note(&failure, &queue);
            }
        }

        let waiting = look
            .missing
            .iter()
            .map(|(_, missed)| GRACE.saturating_sub(*missed));
        let next = waiting.filter(|wait| !wait.is_zero()).min();
        // The jitter shortens it: a little more, so that the grace has passed then.
        Ok(next.map_or(ROUND, |wait| (wait.mul_f64(1.3) + PAUSE / 10).min(ROUND)))
    }

    /// Makes everything due that these have leased in one queue.
    async fn take_over(
        &self,
        queue: &QueueName,
        gone: &[Sign],
        swept: &mut HashSet<(QueueName, Sign)>,
    ) -> Result<()> {
        let is_left = |sign: &&Sign| !swept.contains(&(queue.clone(), **sign));
        let gone: Vec<Sign> = gone.iter().filter(is_left).copied().collect();
        while !gone.is_empty() {
            let taken = call!(self.renew, |connection| registry::take_over(
                connection, queue, &gone
            ))?;
            let taken =
                taken.map_err(|failure| error::on_queue(failure, queue, self.connector.place()))?;
            if taken.count > 0 {
                let count = taken.count;
                tracing::info!(%queue, count, "took over messages of a worker that is gone");
                self.wake.announce(queue);
            }

            if taken.is_all {
                swept.extend(gone.iter().map(|sign| (queue.clone(), *sign)));
                return Ok(());
            }
            if taken.count == 0 {
                // They are locked, or their holder is back: the next round looks again.
                return Ok(());
            }
        }

        Ok(())
    }

    /// Gives the engine a sign.
    async fn enter(&self) -> Result<Sign> {
        let lease = self.board.longest_lease();
        for _ in 0..TRIES {
            let sign = Sign::random();
            let entered = call!(self.control, |connection| registry::enter(
                connection, sign, lease
            ))?;
            if entered.map_err(|failure| self.failed(failure))? {
                self.board.sign.set(sign);
                self.board.decide();
                return Ok(sign);
            }
        }

        let text = format!("{TRIES} random signs belong to others already");
        Err(Error::new(ErrorKind::Engine, text))
    }

    fn note(&self, failure: &Error, queue: &QueueName) {
        if failure.kind() == ErrorKind::QueueMissing {
            self.board.forget(queue);
        }
        let failure = error_chain(failure);
        tracing::debug!(%queue, failure, "could not take over from workers that are gone; tries again");
    }

    fn failed(&self, failure: sqlx::Error) -> Error {
        if error::missing::of_ezq(&failure).is_some() {
            self.table.forget();
        }
        out_of_reach(failure, Part::Holders, self.connector.place())
    }

    /// How long to wait after a failure. That the table is out of reach is told once.
    fn after(&self, error: &Error, is_told: &mut bool) -> Duration {
        let failure = error_chain(error);
        self.board.decide();
        if !matches!(
            error.kind(),
            ErrorKind::SchemaMissing | ErrorKind::Permission
        ) {
            tracing::debug!(
                failure,
                "could not look for workers that are gone; tries again"
            );
            return PAUSE;
        }

        if !std::mem::replace(is_told, true) {
            tracing::info!(
                failure,
                "what a worker that is killed holds is handled when its lease ends, and not sooner"
            );
        }
        LONG_PAUSE
    }
}
