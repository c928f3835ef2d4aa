//! The one listener of an engine: always drained, connected again when it breaks, and then waking
//! everyone, since notifications may have been missed.

use std::sync::Arc;
use std::time::Duration;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error;
use crate::link::Connector;
use crate::wake::{CHANNEL, Wake};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A quiet connection is asked whether it still stands.
const QUIET: Duration = Duration::from_secs(20);

/// How listening goes.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// The first attempt is under way.
    Connecting,
    Listening,
    /// The last attempt failed; another follows.
    Failing(String),
}

/// Listens until the task is stopped.
pub(crate) async fn forever(connector: Connector, wake: Arc<Wake>, state: watch::Sender<State>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match connect(&connector).await {
            Ok(listener) => {
                pause = FIRST_PAUSE;
                wake.everyone();
                state.send_replace(State::Listening);
                drain(listener, &wake, connector.connect_timeout()).await
            }
            Err(failure) => failure,
        };
        let failure = ezq_core::error_chain(&failure);
        tracing::debug!(failure, "not listening for wake-ups just now; consumers poll");
        state.send_replace(State::Failing(failure));
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for the first attempt.
///
/// # Errors
/// Listening is not possible just now.
pub(crate) async fn ready(mut state: watch::Receiver<State>) -> Result<()> {
    let stopped = || Error::new(ErrorKind::Connection, "the engine is closed");
    let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
    match &*settled.map_err(|_| stopped())? {
        State::Failing(failure) => {
            let text = "cannot listen for wake-ups just now";
            Err(Error::new(ErrorKind::Connection, text).with_source(failure.clone()))
        }
        State::Listening | State::Connecting => Ok(()),
    }
}

async fn connect(connector: &Connector) -> Result<PgListener> {
    let place = connector.place();
    // A listener lives in a pool: this one is its own, outside the application's.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(connector.connect_timeout())
        .connect_lazy_with(connector.options().clone());
    let open = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    };
    match timeout(connector.connect_timeout(), open).await {
        Ok(result) => result.map_err(|failure| error::of(failure, place)),
        Err(_) => Err(error::timed_out(place, connector.connect_timeout())),
    }
}

async fn drain(mut listener: PgListener, wake: &Wake, patience: Duration) -> Error {
    let lost = || Error::new(ErrorKind::Connection, "the listening connection was lost");
    loop {
        match timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => wake.heard(notification.payload()),
            Ok(Ok(None)) => return lost(),
            Ok(Err(failure)) => return lost().with_source(failure),
            Err(_) => {
                let check = sqlx::query("SELECT 1").execute(&mut listener);
                match timeout(patience, check).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(failure)) => return lost().with_source(failure),
                    Err(_) => return lost(),
                }
            }
        }
    }
}
