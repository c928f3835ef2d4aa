//! `ezq dev`: a development Postgres, for as long as the command runs.

use ezq::Ezq;
use ezq::pgmq::embedded::EmbeddedPostgres;
use serde_json::json;

use crate::failure::Failure;
use crate::session::Session;

pub(crate) async fn run(session: &Session) -> Result<(), Failure> {
    let server = EmbeddedPostgres::builder().start().await?;
    let url = server.url();
    // Installs PGMQ.
    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .database_url(&url)
        .connect()
        .await?;
    ezq.close().await;

    match session.global.json {
        true => session.output.lines(&[json!({"database_url": url})])?,
        false => session.output.data(&url)?,
    }
    session
        .output
        .note("Ctrl-C ends the database, and deletes what it holds");
    stopped().await?;
    // Its data goes with it, and there is nobody to wait for.
    Ok(server.stop(false).await?)
}

/// Waits for Ctrl-C, or what else asks a program to end.
async fn stopped() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let refused = |error| Failure::error(format!("signals cannot be received: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    {
        let stopped = tokio::signal::ctrl_c().await;
        stopped.map_err(|error| Failure::error(format!("Ctrl-C cannot be received: {error}")))
    }
}
