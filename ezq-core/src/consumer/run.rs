//! One run of a consumer, from the queue that is made sure of to the report.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, info};

use crate::clock::later;
use crate::consumer::cancel_orders::CancelOrders;
use crate::consumer::cancelling::remaining::RemainingOrders;
use crate::consumer::coordinator::Coordinator;
use crate::consumer::fetcher::window::Window;
use crate::consumer::leases::Leases;
use crate::consumer::pausing::release::release_resumed;
use crate::consumer::prepare::{Orders, prepare};
use crate::consumer::renewer::Renewer;
use crate::consumer::scope::RunScope;
use crate::consumer::settings::Settings;
use crate::consumer::settle::Settler;
use crate::consumer::settle::batch::BatchSettler;
use crate::consumer::settle::outbox::{Batches, outbox};

use crate::consumer::stop::listener::StopListener;
use crate::consumer::warnings::warn_of_mistakes;
use crate::dispatch::admission::Admission;
use crate::error::{Error, ErrorKind, Result};
use crate::logging::warn;
use crate::observe::metrics::QueueMetrics;
use crate::observe::report::{Disposition, Report, StopReason};
use crate::observe::status::ConsumerStatus;
use crate::shared::Shared;

/// How long to go on settling once the consumer has stopped, unless the leases end before: nobody
/// would wait for longer.
const SETTLING_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a consumer until it is stopped.
pub(crate) async fn run(
    app: Arc<Shared>,
    settings: Settings,
    stops: &mut StopListener,
    status: Arc<ConsumerStatus>,
) -> Result<Report> {
    let started = Instant::now();
    let prepared = tokio::select! {
        prepared = prepare(&app, &settings) => prepared?,
        // Asked to stop while the database is unreachable: nothing has begun.
        request = stops.next() => return Ok(report(request.reason(), &status, started)),
    };

    let window = Window::new(settings.concurrency);
    let (scope, batches) = share(app, settings, &status, &window);
    let leases = Arc::clone(&scope.leases);
    let queue = scope.settings.queue.clone();
    let patience = patience(&scope.settings);

    let orders = prepared.orders.clone();
    if scope.app.config.presence && !scope.settings.until_idle {
        let leases = Arc::downgrade(&leases);
        status.runs_in_public(scope.settings.concurrency, move || {
            leases.upgrade().map_or(0, |leases| leases.count())
        });
        scope.app.consumer_begun();
    }

    let (mut settling, mut background) = start_tasks(&scope, batches, &status, orders);
    announce(&scope);

    // The scope moves: the settling task ends when the coordinator and all handlers are gone.
    let mut coordinator = Coordinator::new(scope, Arc::clone(&status), prepared, window, started);
    tokio::select! {
        () = coordinator.drive(stops) => {}
        // Neither ends before the consumer, unless the engine panicked.
        _ = &mut settling => return Err(broken("settling")),
        _ = background.join_next() => return Err(broken("renewing leases or keeping the time")),
    }
    coordinator.stop.settle_control(stops).await;
    let reason = coordinator.stop.reason();
    drop(coordinator);

    // Leases are renewed until everything is settled.
    if let Err(why) = settle_the_rest(settling, stops, patience).await {
        warn!(%queue, why, "some events are not settled: they will be delivered again");
    }
    abandon(&leases, &status);
    drop(background);

    let report = report(reason, &status, started);
    info!(%queue, "consumer {report}");
    Ok(report)
}

fn report(reason: StopReason, status: &ConsumerStatus, started: Instant) -> Report {
    Report {
        reason,
        counts: status.counters.counts(),
        elapsed: started.elapsed(),
    }
}

/// What the parts of the run share, and the receiving end of its outbox.
fn share(
    app: Arc<Shared>,
    settings: Settings,
    status: &ConsumerStatus,
    window: &Window,
) -> (Arc<RunScope>, Batches) {
    let (outbox, batches) = outbox(app.config.settle_batch, app.config.settle_max_age);
    let backlogs = app.dispatcher.backlogs(&settings.queue, window.least());
    let has_keys = settings.engine.capabilities().keys;
    let dispatcher = &app.dispatcher;
    let relay = dispatcher.relay_limits(&settings.queue, settings.concurrency, has_keys);
    let batch_room = match &relay {
        Some(relay) => relay.size.saturating_mul(relay.at_once),
        None => dispatcher.batch_room(&settings.queue),
    };
    let scope = RunScope {
        counters: Arc::clone(&status.counters),
        leases: Arc::new(Leases::new(settings.lease)),
        cancel_orders: CancelOrders::default(),
        outbox,
        admission: Arc::new(Admission::of(settings.concurrency, backlogs)),
        batch_room,
        relay,
        keeps_bodies: dispatcher.has_relay(&settings.queue),
        metrics: QueueMetrics::of(&settings.queue),
        app,
        settings,
    };
    (Arc::new(scope), batches)
}

/// For how long settling is tried after the end. Once the leases have ended it is of no use.
fn patience(settings: &Settings) -> Duration {
    settings.lease.min(SETTLING_PATIENCE)
}

/// Starts the settling task, and those that renew leases, release what was put aside, cancel what no
/// worker has and keep the schedules. All of them end with the consumer, and log in the span in which it was started.
fn start_tasks(
    scope: &Arc<RunScope>,
    batches: Batches,
    status: &Arc<ConsumerStatus>,
    orders: Orders,
) -> (JoinHandle<()>, JoinSet<()>) {
    let settings = &scope.settings;
    // The settler must not keep the outbox open, nor the status alive.
    let status: Weak<ConsumerStatus> = Arc::downgrade(status);

    let batch_settler = BatchSettler {
        engine: Arc::clone(&settings.engine),
        services: Arc::clone(&scope.app.services),
        queue: settings.queue.clone(),
        leases: Arc::clone(&scope.leases),
        counters: Arc::clone(&scope.counters),
        status: Weak::clone(&status),
        metrics: scope.metrics.clone(),
    };
    let settler = Settler {
        batches: batch_settler,
        patience: patience(settings),
    };
    let settling = tokio::spawn(settler.run(batches).in_current_span());

    let renewer = Renewer {
        leases: Arc::clone(&scope.leases),
        engine: Arc::clone(&settings.engine),
        queue: settings.queue.clone(),
        status,
    };
    let mut background = JoinSet::new();
    background.spawn(renewer.run().in_current_span());

    if let Some(pauses) = orders.pauses {
        let engine = Arc::clone(&settings.engine);
        let releasing = release_resumed(engine, settings.queue.clone(), pauses);
        background.spawn(releasing.in_current_span());
    }

    if let Some(cancellations) = orders.cancellations {
        let remaining = RemainingOrders {
            engine: Arc::clone(&settings.engine),
            services: Arc::clone(&scope.app.services),
            queue: settings.queue.clone(),
            leases: Arc::clone(&scope.leases),
        };
        background.spawn(remaining.run(cancellations).in_current_span());
    }

    if scope.app.config.presence && !settings.until_idle {
        let telling = Arc::clone(&scope.app).tell_of_consumers();
        background.spawn(telling.in_current_span());
    }

    if let Some(every) = scope
        .app
        .config
        .sample_queues
        .filter(|_| !settings.until_idle)
    {
        let sampling = Arc::clone(&scope.app).sample_queues(every);
        background.spawn(sampling.in_current_span());
    }

    if !settings.until_idle && !scope.app.schedules.planned.is_empty() {
        let schedules = Arc::clone(&scope.app).keep_schedules();
        background.spawn(schedules.in_current_span());
    }
    (settling, background)
}

/// Logs that the consumer runs, and what looks like a mistake.
fn announce(scope: &RunScope) {
    let settings = &scope.settings;
    let handlers = scope.app.dispatcher.registry.of(&settings.queue);
    info!(
        queue = %settings.queue,
        engine = settings.engine.capabilities().name,
        concurrency = settings.concurrency,
        handlers = ?handlers.iter().map(|handler| handler.name.as_str()).collect::<Vec<_>>(),
        "consumer started"
    );
    warn_of_mistakes(&scope.app, &settings.queue, settings.subscribe.is_some());
}

/// Waits until everything is settled, or it is time to leave the rest to whoever leases it next.
async fn settle_the_rest(
    mut settling: JoinHandle<()>,
    stops: &mut StopListener,
    patience: Duration,
) -> Result<(), &'static str> {
    // The settling task itself gives up what fails; this is for a store that does not answer.
    let silent = later(Instant::now(), patience * 2);
    loop {
        let deadline = stops
            .consumer_deadline()
            .map_or(silent, |deadline| deadline.min(silent));

        tokio::select! {
            // Success wins over a deadline that passes at the same moment.
            biased;
            ended = &mut settling => return ended.map_err(|_| "the settling task failed"),
            // A request to cancel sets an earlier deadline.
            _ = stops.next() => {}
            () = sleep_until(deadline) => {
                settling.abort();
                return Err("the store did not settle the events in time");
            }
        }
    }
}

/// Counts what is left unsettled as lost: it comes again when its leases end.
fn abandon(leases: &Leases, status: &ConsumerStatus) {
    for _ in 0..leases.abandon() {
        status.counters.add(Disposition::Lost);
    }
}

fn broken(what: &str) -> Error {
    let text = format!(
        "the engine panicked while {what}: the leased events will be delivered \
                        again"
    );
    Error::new(ErrorKind::Panicked, text)
}
