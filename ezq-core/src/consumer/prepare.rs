//! Preparing a run: the queue, the table of schedules, the subscriptions, what operators want, and the
//! wake-ups.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

use crate::consumer::fetcher::wakeups::Wakeups;
use crate::consumer::settings::Settings;
use crate::engine::{QueueCancellations, QueuePauses};
use crate::error::{Result, error_chain};
use crate::event::pattern::Pattern;
use crate::logging::warn;
use crate::shared::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a run learns from its engine.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) wakeups: Wakeups,
    pub(crate) orders: Orders,
}

/// What operators want of the queue, from the engine.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    /// What is paused; `None` if the engine has no pauses.
    pub(crate) pauses: Option<watch::Receiver<QueuePauses>>,
    /// What is to be cancelled; `None` if the engine has no cancellations.
    pub(crate) cancellations: Option<watch::Receiver<QueueCancellations>>,
}

/// Makes sure of the queue, its subscriptions and its wake-ups; waits for a database that is briefly
/// unreachable.
///
/// # Cancel safety
/// Dropping it leaves open how far it came. It can be begun again.
pub(crate) async fn prepare(app: &Shared, settings: &Settings) -> Result<Prepared> {
    let queue = &settings.queue;

    // What passes by itself is tried again; what does not pass is the caller's to see.
    let mut pause = FIRST_PAUSE;
    let orders = loop {
        let error = match set_up(app, settings).await {
            Ok(orders) => break orders,
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        warn!(%queue, error = %error_chain(&error), "cannot start yet, will try again");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };

    let wakeups = match settings.engine.wakeups(queue).await {
        Ok(wakeups) => Wakeups::new(wakeups),
        Err(error) => {
            warn!(%queue, error = %error_chain(&error), "cannot listen for wake-ups yet, polling");
            Wakeups::failed()
        }
    };
    Ok(Prepared { wakeups, orders })
}

/// Makes sure of what the run needs. Returns what operators want: nothing is claimed before that is known.
async fn set_up(app: &Shared, settings: &Settings) -> Result<Orders> {
    settings.engine.ensure_queue(&settings.queue).await?;

    // A consumer that runs until its queue is idle fires no schedules.
    if !settings.until_idle {
        app.ready_to_schedule().await?;
    }

    if let Some(patterns) = &settings.subscribe {
        subscribe(app, settings, patterns).await?;
    }

    let pauses = match settings.engine.pauses() {
        Some(pauses) => Some(pauses.watch(&settings.queue).await?),
        None => None,
    };
    let cancellations = match settings.engine.cancellations() {
        Some(cancellations) => Some(cancellations.watch(&settings.queue).await?),
        None => None,
    };
    Ok(Orders {
        pauses,
        cancellations,
    })
}

async fn subscribe(app: &Shared, settings: &Settings, patterns: &[Pattern]) -> Result<()> {
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
