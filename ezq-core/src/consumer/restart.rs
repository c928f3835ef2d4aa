//! Starting a consumer again when it fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use crate::consumer::run::run;
use crate::consumer::settings::Settings;
use crate::consumer::stop::listener::StopListener;
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::handler::outcome::HandlerError;
use crate::handler::retry::Backoff;
use crate::logging::error;
use crate::observe::report::Report;
use crate::observe::status::ConsumerStatus;
use crate::shared::Shared;
use crate::text::panic_text;

/// A run that lasted this long before it failed starts the pauses anew.
const STEADY: Duration = Duration::from_secs(60);

/// Runs a consumer until it is stopped, or fails and is not to be restarted.
pub(crate) async fn run_with_restarts(
    app: Arc<Shared>,
    settings: Settings,
    mut stops: StopListener,
    restart: Option<Backoff>,
    status: &Arc<ConsumerStatus>,
) -> Result<Report> {
    let began = Instant::now();
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let ended = run_caught(&app, &settings, &mut stops, status).await;
        let (failure, backoff) = match (ended, &restart) {
            (Err(failure), Some(backoff)) if !is_final(&failure) => (failure, backoff),
            (ended, _) => {
                return ended.map(|report| Report {
                    elapsed: began.elapsed(),
                    ..report
                });
            }
        };

        let was_steady = started.elapsed() >= STEADY;
        failures = if was_steady { 1 } else { failures + 1 };
        status.restarts_after(&failure);
        let why = error_chain(&failure);
        let failure = HandlerError::retry(failure);
        let pause = backoff.next_delay(failures, &failure, &settings.queue);
        error!(queue = %settings.queue, error = why, ?pause, "consumer failed and starts again");

        let reason = match stops.requested() {
            // It failed while it stopped, and nothing runs any more.
            Some(reason) => reason,
            None => tokio::select! {
                () = sleep(pause) => continue,
                // A stop is heard during the pause as well.
                request = stops.next() => request.reason(),
            },
        };
        return Ok(Report {
            reason,
            counts: status.counters.counts(),
            elapsed: began.elapsed(),
        });
    }
}

/// Runs a consumer once. A panic is an error: it must not end the task that restarts the consumer.
async fn run_caught(
    app: &Arc<Shared>,
    settings: &Settings,
    stops: &mut StopListener,
    status: &Arc<ConsumerStatus>,
) -> Result<Report> {
    let run = run(Arc::clone(app), settings.clone(), stops, Arc::clone(status));
    AssertUnwindSafe(run)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = format!("the consumer panicked: {}", panic_text(&*panic));
            Err(Error::new(ErrorKind::Panicked, text))
        })
}

/// Whether starting again cannot help: the application itself is wrong.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Configuration
            | ErrorKind::InvalidQueueName
            | ErrorKind::MissingState
            | ErrorKind::RuntimeEnded
            | ErrorKind::ScheduleTaken
            | ErrorKind::Unsupported
    )
}
