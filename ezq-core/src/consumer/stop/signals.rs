//! SIGINT and SIGTERM, for consumers that asked for them.

use crate::error::{Error, ErrorKind, Result};

/// Waits for the next signal that asks the process to stop.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot_listen)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot_listen)?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            // Ctrl-C in a terminal.
            _ = self.interrupt.recv() => {}
            // What service managers and containers send.
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(unix)]
fn cannot_listen(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Configuration, "cannot listen to signals").with_source(error)
}

/// Waits for the next Ctrl-C.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) {
        // If Ctrl-C cannot be heard, no signal ever comes.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
