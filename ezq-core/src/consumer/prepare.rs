//! Before a consumer runs: its queue, a place for its schedules, its subscriptions and its wake-ups.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use crate::consumer::run::Settings;
use crate::error::{Result, error_chain};
use crate::event::pattern::Pattern;
use crate::logging::warn;
use crate::shared::Shared;

/// The engine's wake-ups, if it has any.
pub(crate) type Wakeups = Option<watch::Receiver<u64>>;

/// Makes sure of the queue, its subscriptions and its wake-ups; waits for a database that is briefly
/// unreachable. The flag is true if asking for wake-ups failed.
///
/// # Cancel safety
/// Dropping it leaves it open how far it came; it can be begun again.
pub(crate) async fn prepare(app: &Shared, settings: &Settings) -> Result<(Wakeups, bool)> {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = set_up(app, settings).await {
        if !error.is_transient() {
            return Err(error);
        }
        warn!(queue = %settings.queue, error = %error_chain(&error), "cannot start yet");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    Ok(match settings.engine.wakeups(&settings.queue).await {
        Ok(wakeups) => (wakeups, false),
        Err(error) => {
            warn!(queue = %settings.queue, error = %error_chain(&error), "no wake-ups yet, polling");
            (None, true)
        }
    })
}

async fn set_up(app: &Shared, settings: &Settings) -> Result<()> {
    settings.engine.ensure_queue(&settings.queue).await?;
    if !settings.until_idle {
        app.ready_to_schedule().await?;
    }
    let Some(patterns) = &settings.subscribe else {
        return Ok(());
    };
    let store = app.services.engines.broadcasts()?;
    let added = store
        .subscribe(&app.config.app, &settings.queue, patterns)
        .await?;
    if added > 0 {
        let patterns: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        info!(queue = %settings.queue, app = app.config.app, added, ?patterns, "subscribed");
    }
    Ok(())
}
