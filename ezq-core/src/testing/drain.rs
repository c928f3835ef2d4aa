//! Running the queues of a test's application to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::{App, AppBuilder};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::QueueName;
use crate::observe::report::{Counts, Report, ReportOfAll};

/// Past so many rounds, the events of a test have no end. Each round is an attempt of every handler that
/// failed, and no sensible policy has as many.
const MOST_ROUNDS: usize = 1000;
/// Past so many attempts beyond the events that were there, those of one queue have no end: a handler
/// publishes what it handles.
const MOST_ATTEMPTS: u64 = 10_000;
/// How often the attempts are compared with their limit.
const CHECK: Duration = Duration::from_millis(100);

/// A store whose time a test moves.
pub trait Hasten {
    /// Makes every event due that waits for a retry in these queues. Returns how many there were.
    fn hasten(&self, queues: &BTreeSet<QueueName>) -> impl Future<Output = Result<u64>> + Send;
}

/// The builder of a test's application, without the options of the environment.
pub fn builder() -> AppBuilder {
    // The harness shows warnings only of tests that fail.
    crate::logging::in_a_test();
    AppBuilder::with(Ok(Config::default()))
}

/// Lets `drain` name the events that no handler takes.
pub fn prepare(app: &App) {
    app.inner.dispatcher.unknown_reasons.keep();
}

/// Handles everything in every queue that the application consumes, retries included.
///
/// # Errors
/// As [`TestApp::drain`](crate::testing::TestApp::drain).
pub async fn drain(app: &App, store: &impl Hasten) -> Result<ReportOfAll> {
    let began = Instant::now();
    let queues = app.consumed_queues();
    let mut reports = BTreeMap::new();
    let mut unknown = Vec::new();

    for _ in 0..MOST_ROUNDS {
        let mut attempted = 0;
        for queue in &queues {
            let (report, reasons) = run(app, queue).await?;
            attempted += attempts(&report.counts);
            unknown.extend(reasons);
            add(&mut reports, queue, report);
        }
        // A handler of one queue may have published to a queue that was empty before.
        if attempted > 0 || store.hasten(&queues).await? > 0 {
            continue;
        }

        unless_unknown(&unknown)?;
        return Ok(ReportOfAll::new(reports, began.elapsed()));
    }

    let text = format!(
        "after {MOST_ROUNDS} rounds there is more to handle: a handler snoozes for ever, or handlers \
         publish each other's events"
    );
    Err(Error::new(ErrorKind::Configuration, text))
}

/// Handles what is due in one queue.
///
/// # Errors
/// As [`TestApp::drain_queue`](crate::testing::TestApp::drain_queue).
pub async fn drain_one(app: &App, queue: &QueueName) -> Result<Report> {
    let (report, reasons) = run(app, queue).await?;
    unless_unknown(&reasons)?;
    Ok(report)
}

/// Runs one queue until it is idle, with the reasons why no handler took an event.
async fn run(app: &App, queue: &QueueName) -> Result<(Report, Vec<String>)> {
    let unknown_reasons = &app.inner.dispatcher.unknown_reasons;
    // Those that a consumer of the test's own met are not of this drain.
    unknown_reasons.take(queue);
    let report = run_to_end(app, queue).await?;

    let reasons = unknown_reasons.take(queue);
    let named = reasons
        .iter()
        .map(|why| format!("in the queue `{queue}`: {why}"));
    Ok((report, named.collect()))
}

/// Runs one queue until it is idle, or until its events seem to have no end.
async fn run_to_end(app: &App, queue: &QueueName) -> Result<Report> {
    let waiting = match app.stats(queue).await {
        Ok(stats) => stats.ready,
        Err(error) if error.kind() == ErrorKind::QueueMissing => 0,
        Err(error) => return Err(error),
    };
    let most = waiting.saturating_add(MOST_ATTEMPTS);

    // A drain that is dropped leaves no consumer behind.
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let consumer = app.consumer().queue(queue).until_idle().stop_on(stop);
    let mut running = consumer.spawn();

    loop {
        tokio::select! {
            ended = &mut running => return ended,
            () = tokio::time::sleep(CHECK) => {
                if attempts(&running.counts()) > most {
                    running.interrupt();
                    running.await?;
                    return Err(endless(queue));
                }
            }
        }
    }
}

fn endless(queue: &QueueName) -> Error {
    let text = format!(
        "the queue `{queue}` does not become empty: handlers made more than {MOST_ATTEMPTS} attempts \
         beyond the events that were there, so one of them publishes what it handles"
    );
    Error::new(ErrorKind::Configuration, text)
}

fn unless_unknown(reasons: &[String]) -> Result<()> {
    if reasons.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{}. An application for tests has the handlers that it is given, and no others",
        reasons.join("; ")
    );
    Err(Error::new(ErrorKind::NoHandler, text))
}

fn attempts(counts: &Counts) -> u64 {
    counts.handled + counts.retried + counts.dead_lettered
}

fn add(reports: &mut BTreeMap<QueueName, Report>, queue: &QueueName, report: Report) {
    let sum = match reports.get(queue) {
        Some(earlier) => Report {
            counts: [earlier.counts, report.counts].into_iter().sum(),
            elapsed: earlier.elapsed.saturating_add(report.elapsed),
            ..report
        },
        None => report,
    };
    reports.insert(queue.clone(), sum);
}
