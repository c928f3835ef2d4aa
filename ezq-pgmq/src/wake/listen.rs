//! The listener of an engine. It is always drained. When it breaks it reconnects, and then wakes
//! everyone, since notifications may have been missed. On its connection it also polls for captured
//! changes, which do not notify: see [`capture_poll`](crate::wake::capture_poll).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Acquire as _, Executor as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::connection::connector::{Connector, PINNED};
use crate::connection::dedicated::limit;
use crate::connection::sign::OwnSign;
use crate::error;
use crate::wake::capture_poll::CapturePoll;
use crate::wake::{CHANNEL, Wake, feeds, orders};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the connection is checked, and whether captures feed its queues.
const QUIET: Duration = Duration::from_secs(20);
/// The same where captures feed its queues: another session that polls them may be gone.
const FED: Duration = Duration::from_secs(5);
/// A poll must not wait long for a lock, such as that of a queue that is being dropped: others wait
/// to hear of their events.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '100ms'";

/// The state of listening.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// The first attempt is under way.
    Connecting,
    Listening,
    /// The last attempt failed; another follows.
    Failing(String),
}

/// Listens until the task is stopped.
pub(crate) async fn forever(
    connector: Connector,
    wake: Arc<Wake>,
    sign: Arc<OwnSign>,
    state: watch::Sender<State>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match connect(&connector).await {
            Ok(listener) => {
                pause = FIRST_PAUSE;
                wake.everyone();
                state.send_replace(State::Listening);
                let lost = drain(listener, &wake, connector.connect_timeout()).await;
                // A listener reads all the time, so it is the first to hear of it.
                sign.note_lost();
                lost
            }
            Err(failure) => failure,
        };

        let failure = ezq_core::error::error_chain(&failure);
        tracing::debug!(
            failure,
            "not listening for wake-ups just now; consumers poll"
        );
        state.send_replace(State::Failing(failure));
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;

        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for the first attempt.
///
/// # Errors
/// Listening is not possible now.
pub(crate) async fn ready(mut state: watch::Receiver<State>) -> Result<()> {
    let settled = state.wait_for(|state| !matches!(state, State::Connecting));
    let Ok(settled) = settled.await else {
        // The listening task has ended.
        return Err(Error::new(ErrorKind::Connection, "the engine is closed"));
    };
    match &*settled {
        State::Failing(failure) => {
            let text = "cannot listen for wake-ups just now";
            Err(Error::new(ErrorKind::Connection, text).with_source(failure.clone()))
        }
        State::Listening | State::Connecting => Ok(()),
    }
}

async fn connect(connector: &Connector) -> Result<PgListener> {
    let place = connector.place();
    // A listener needs a pool: this one is its own, beside the application's.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(connector.connect_timeout())
        .connect_lazy_with(connector.options());

    let open = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.execute(PINNED).await?;
        listener.execute(LOCK_TIMEOUT).await?;
        let channels = [CHANNEL, feeds::CHANNEL, orders::CHANNEL];
        listener.listen_all(channels).await?;
        Ok(listener)
    };

    match timeout(connector.connect_timeout(), open).await {
        Ok(result) => result.map_err(|failure| error::of(failure, place)),
        Err(_) => Err(error::timed_out(place, connector.connect_timeout())),
    }
}

/// Passes on what it hears, and polls for captured changes, until the connection is lost.
async fn drain(mut listener: PgListener, wake: &Wake, patience: Duration) -> Error {
    let mut watch = CaptureWatch::new(patience);
    loop {
        let next = watch.next();
        tokio::select! {
            heard = listener.try_recv() => match heard {
                // A capture was made or removed.
                Ok(Some(heard)) if heard.channel() == feeds::CHANNEL => watch.refresh_soon(),
                // Something was paused, resumed or cancelled.
                Ok(Some(heard)) if heard.channel() == orders::CHANNEL => wake.orders.changed(),
                Ok(Some(heard)) => {
                    wake.heard(inserted(heard.channel()).unwrap_or_else(|| heard.payload()));
                }
                // The connection ended, and notifications may be lost: the caller connects anew.
                Ok(None) => return lost(),
                Err(failure) => return lost().with_source(failure),
            },
            // Someone asks for another queue: captures may feed it.
            () = wake.asked() => watch.refresh_soon(),

            // Time to poll, or to check the connection. A message that was received in part is
            // kept.
            () = tokio::time::sleep_until(next) => {
                if let Err(lost) = watch.work(&mut listener, wake).await {
                    return lost;
                }
            }
        }
    }
}

/// The channel on which PGMQ announces inserts, for queues with `pgmq.enable_notify_insert`.
fn insert_channel(queue: &str) -> String {
    format!("pgmq.q_{queue}.INSERT")
}

/// The queue of such a channel.
fn inserted(channel: &str) -> Option<&str> {
    channel.strip_prefix("pgmq.q_")?.strip_suffix(".INSERT")
}

fn lost() -> Error {
    Error::new(ErrorKind::Connection, "the listening connection was lost")
}

/// What a listening session polls, besides listening.
struct CaptureWatch {
    poll: CapturePoll,
    /// Queues whose notifications by PGMQ are listened to.
    heard_of: HashSet<String>,
    /// When to ask again which queues captures feed. This also checks the connection.
    refresh_at: Instant,
    patience: Duration,
}

impl CaptureWatch {
    fn new(patience: Duration) -> Self {
        let poll = CapturePoll::default();
        let heard_of = HashSet::new();
        Self {
            poll,
            heard_of,
            refresh_at: Instant::now(),
            patience,
        }
    }

    fn next(&self) -> Instant {
        self.poll
            .next()
            .map_or(self.refresh_at, |look| look.min(self.refresh_at))
    }

    fn refresh_soon(&mut self) {
        self.refresh_at = Instant::now();
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The connection is lost.
    async fn work(&mut self, listener: &mut PgListener, wake: &Wake) -> Result<()> {
        let now = Instant::now();
        if self.refresh_at <= now {
            let mine = wake.queues();
            for queue in &mine {
                if self.heard_of.insert(queue.clone()) {
                    // Listening to a channel that is never notified costs nothing, and it may be
                    // notified later.
                    let channel = insert_channel(queue);
                    let listening = limit(self.patience, listener.listen(&channel)).await;
                    self.answer(listening)?;
                }
            }

            let learning = async {
                let connection = listener.acquire().await?;
                feeds::refresh(connection, &mine, &mut self.poll).await
            };

            let learnt = limit(self.patience, learning).await;
            let learnt = self.answer(learnt)?;
            let is_fed = learnt.as_ref().is_none_or(|learnt| learnt.is_fed);
            self.refresh_at = Instant::now() + if is_fed { FED } else { QUIET };
            let new = learnt.map(|learnt| learnt.new).unwrap_or_default();

            new.iter().for_each(|queue| wake.announce(queue));
        }

        if self.poll.next().is_some_and(|look| look <= now) {
            let looking = async {
                let connection = listener.acquire().await?;
                feeds::poll(connection, &mut self.poll).await
            };
            let woken = limit(self.patience, looking).await;
            let woken = self.answer(woken)?.unwrap_or_default();
            woken.iter().for_each(|queue| wake.announce(queue));
        }

        Ok(())
    }

    /// The answer; `None` where the statement failed on a connection that still works: a queue was
    /// dropped or is locked, or a right is missing. Then nothing is polled until the queues are
    /// looked up again.
    fn answer<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if error::keeps_connection(&failure) => {
                tracing::debug!(%failure, "captured changes are found by polling for now");
                self.poll.pause();
                Ok(None)
            }
            Err(failure) => Err(lost().with_source(failure)),
        }
    }
}
