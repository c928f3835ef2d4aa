//! What asks a command to end that runs until somebody does.

use crate::failure::Failure;

/// Ctrl-C, and what else asks a program to end. From the begin of this value on they are heard, so one
/// that comes early does not kill the program with work undone.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub(crate) fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let refused = |error| Failure::error(format!("signals cannot be received: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(refused)?,
            interrupt: signal(SignalKind::interrupt()).map_err(refused)?,
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Waits for one of them.
    #[cfg(unix)]
    pub(crate) async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(crate) async fn received(self) {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::info!(%error, "Ctrl-C cannot be received");
            // The command goes on until something else ends it.
            std::future::pending().await
        }
    }
}
