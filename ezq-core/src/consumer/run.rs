//! The coordinator of one consumer: one fetch at a time, a bounded buffer, and deliveries that are
//! done at once or go on in a task each.
//!
//! Invariants: what is fetched is held in the lease table until it is settled, given back or lost;
//! at most the window is held unhandled, and as much again that waits for another of its ordering
//! key; after a stop was decided nothing new starts, but for what stood before an `End`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::{AbortHandle, JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, info};

use crate::clock::later;
use crate::consumer::deadline::{at, changed};
use crate::consumer::fetcher::Fetched;
use crate::consumer::fetcher::pace::Pace;
use crate::consumer::fetcher::transactional::endless;
use crate::consumer::fetcher::walk::Crowd;
use crate::consumer::fetcher::window::Window;
use crate::consumer::leases::{Leases, Renewer};
use crate::consumer::prepare::{Wakeups, prepare};
use crate::consumer::settle::outbox::{Outbox, outbox};
use crate::consumer::settle::{InFlight, Settler};
use crate::consumer::stop::listener::Listener;
use crate::consumer::warnings::warn_of_doubts;
use crate::consumer::workload::lanes::{Lanes, Turn};
use crate::consumer::workload::task::send;
use crate::delivery::lease::Lease;
use crate::dispatch::dispatcher::Work;
use crate::dispatch::slots::Slots;
use crate::engine::{Engine, Position, Receipt, Settle};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Control;
use crate::event::pattern::Pattern;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::report::{Counters, Report, StopReason, Tally};
use crate::observe::status::Observed;
use crate::shared::Shared;

/// How long to go on settling once the consumer has stopped: no longer than the leases, and no longer
/// than anyone would wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one run is told.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) queue: QueueName,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) until_idle: bool,
    /// What to subscribe the queue to, if it is to be.
    pub(crate) subscribe: Option<Vec<Pattern>>,
}

/// A delivery that waits for its turn.
pub(crate) struct Item {
    pub(crate) receipt: Receipt,
    pub(crate) position: Position,
    pub(crate) work: Work,
    /// Of a delivery with an ordering key, while it is the one of its key that is at work.
    pub(crate) turn: Option<Turn>,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// What precedes an `End` is handled; then the consumer stops.
    Draining,
    /// Nothing new starts; what runs may finish.
    Finishing,
    /// What runs is cancelled.
    Cancelling,
}

/// One consumer at work.
pub(crate) struct Run {
    pub(crate) app: Arc<Shared>,
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) settler: Arc<Outbox>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) buffer: VecDeque<Item>,
    /// The fetch by lease that has not come yet.
    pub(crate) leasing: Option<AbortHandle>,
    /// How many deliveries of the newest fetch are not taken in yet.
    pub(crate) incoming: usize,
    pub(crate) lanes: Lanes,
    pub(crate) crowd: Crowd,
    /// The fetch under way, if there is one.
    pub(crate) fetch: JoinSet<Fetched>,
    pub(crate) window: Window,
    /// How many may wait for batches, beside those that are handled.
    pub(crate) batch_room: usize,
    /// What cancels a batch that is claimed and handled in one transaction.
    pub(crate) direct: Arc<Lease>,
    /// The newest fetch found as much as it asked for.
    pub(crate) backlog: bool,
    pub(crate) pace: Pace,
    pub(crate) phase: Phase,
    pub(crate) reason: StopReason,
    /// When an `End` has what still runs cancelled.
    pub(crate) deadline: Option<Instant>,
    /// When what does not end is left behind.
    pub(crate) gives_up: Option<Instant>,
    /// The control event that stops this run, kept leased until the end unless it is for all.
    pub(crate) control: Option<(Item, Control)>,
    /// Nothing is left before the `End`.
    pub(crate) drained: bool,
    pub(crate) started: Instant,
    /// The same on the engine's clock, or a little later: an answer of the engine was read at an
    /// unknown time after it was asked for.
    pub(crate) began: Option<DateTime<Utc>>,
    pub(crate) failing: bool,
    pub(crate) wakeups: Wakeups,
    /// Asking for wake-ups failed: it is tried again.
    pub(crate) deaf: bool,
}

/// Runs a consumer until it is stopped.
pub(crate) async fn run(
    app: Arc<Shared>,
    settings: Settings,
    stops: &mut Listener,
    observed: Arc<Observed>,
) -> Result<Report> {
    let counters = Arc::clone(&observed.counters);
    let started = Instant::now();
    let (wakeups, deaf) = tokio::select! {
        prepared = prepare(&app, &settings) => prepared?,
        asked = stops.next() => {
            let (reason, counts) = (asked.reason(), counters.counts());
            return Ok(Report { reason, counts, elapsed: started.elapsed() });
        }
    };
    let leases = Arc::new(Leases::new(settings.lease));
    let in_flight = Arc::new(InFlight::default());
    let (settler, batches) = outbox(app.config.settle_batch, app.config.settle_max_age);
    let settling = Settler {
        engine: Arc::clone(&settings.engine),
        services: Arc::clone(&app.services),
        queue: settings.queue.clone(),
        leases: Arc::clone(&leases),
        counters: Arc::clone(&counters),
        observed: Arc::downgrade(&observed),
        in_flight: Arc::clone(&in_flight),
        patience: settings.lease.min(PATIENCE),
    };
    let mut background = JoinSet::new();
    // All tasks of a consumer end with it, and log in the span that it was started in.
    let mut settling = tokio::spawn(settling.run(batches).in_current_span());
    let renewer = Renewer {
        leases: Arc::clone(&leases),
        engine: Arc::clone(&settings.engine),
        queue: settings.queue.clone(),
        observed: Arc::downgrade(&observed),
        settling: move |receipt: &Receipt| in_flight.contains(receipt),
    };
    background.spawn(renewer.run().in_current_span());
    if !settings.until_idle && !app.schedules.planned.is_empty() {
        background.spawn(Arc::clone(&app).keep_schedules().in_current_span());
    }
    let pace = Pace::of(&app.config, wakeups.is_some());
    info!(
        queue = %settings.queue,
        engine = settings.engine.capabilities().name,
        concurrency = settings.concurrency,
        handlers = ?app.dispatcher.registry.of(&settings.queue).iter().map(|h| h.name.as_str()).collect::<Vec<_>>(),
        "consumer started"
    );
    warn_of_doubts(&app, &settings.queue, settings.subscribe.is_some());
    let window = Window::new(settings.concurrency);
    let limited = app.dispatcher.limited(&settings.queue, window.least());
    let slots = Arc::new(Slots::of(settings.concurrency, limited));
    let batch_room = app.dispatcher.batch_room(&settings.queue);
    let mut run = Run {
        app,
        settings,
        counters: Arc::clone(&counters),
        observed,
        leases,
        settler,
        tasks: JoinSet::new(),
        slots,
        buffer: VecDeque::new(),
        leasing: None,
        incoming: 0,
        lanes: Lanes::new(),
        crowd: Crowd::default(),
        fetch: JoinSet::new(),
        window,
        batch_room,
        direct: endless(),
        backlog: false,
        pace,
        phase: Phase::Running,
        reason: StopReason::Idle,
        deadline: None,
        gives_up: None,
        control: None,
        drained: false,
        started,
        began: None,
        failing: false,
        wakeups,
        deaf,
    };
    run.crowd = Crowd::new(run.looks_past());
    tokio::select! {
        () = run.drive(stops) => {}
        // Neither ends before the consumer, unless the engine panicked.
        _ = &mut settling => return Err(broken("settling")),
        _ = background.join_next() => return Err(broken("renewing leases or keeping the time")),
    }
    run.settle_control(stops).await;
    let (queue, reason, leases) = (
        run.settings.queue.clone(),
        run.reason,
        Arc::clone(&run.leases),
    );
    let patience = run.settings.lease.min(PATIENCE);
    drop(run);
    if let Err(why) = settle_the_rest(settling, stops, patience).await {
        warn!(%queue, why, "not all is settled: what is left comes again");
    }
    (0..leases.abandon()).for_each(|_| counters.add(Tally::Lost));
    drop(background);
    let report = Report {
        reason,
        counts: counters.counts(),
        elapsed: started.elapsed(),
    };
    info!(%queue, "consumer {report}");
    Ok(report)
}

fn broken(what: &str) -> Error {
    let text = format!("the engine panicked while {what}: the leased events will come again");
    Error::new(ErrorKind::Engine, text)
}

/// Waits until everything is settled, or it is time to leave the rest to whoever leases it next.
async fn settle_the_rest(
    mut settling: JoinHandle<()>,
    stops: &mut Listener,
    patience: Duration,
) -> Result<(), &'static str> {
    // The settling task itself gives up what fails; this is for a store that does not answer.
    let silent = later(Instant::now(), patience * 2);
    loop {
        let ends = stops.ends().map_or(silent, |ends| ends.min(silent));
        tokio::select! {
            biased;
            ended = &mut settling => return ended.map_err(|_| "the settling task failed"),
            _ = stops.next() => {}
            () = sleep_until(ends) => {
                settling.abort();
                return Err("the store does not settle it in time");
            }
        }
    }
}

impl Run {
    async fn drive(&mut self, stops: &mut Listener) {
        let (leases, slots) = (Arc::clone(&self.leases), Arc::clone(&self.slots));
        loop {
            self.look_at_limits();
            // While what came is handled, the next is fetched.
            self.start_fetch();
            let is_more = self.start_tasks();
            self.drain_on();
            self.observed.runs(self.phase != Phase::Running);
            if self.is_finished() {
                return;
            }
            self.start_fetch();
            let waits = self.fetch.is_empty() && self.wants_more();
            let crowded = self.buffer.len() > self.window.least() && self.phase == Phase::Running;
            let draining = self.phase == Phase::Draining;
            let limited = !self.slots.limited.is_empty();
            tokio::select! {
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        self.panicked();
                    }
                    if self.settings.until_idle && self.tasks.is_empty() {
                        self.pace.soon(Duration::from_millis(2));
                    }
                }
                Some(fetched) = self.fetch.join_next(), if !self.fetch.is_empty() => {
                    match fetched {
                        Ok(fetched) => self.fetched(fetched).await,
                        // It was given up.
                        Err(error) if error.is_cancelled() => self.leasing = None,
                        Err(_) => {
                            self.fetched(Fetched::panicked()).await;
                            self.leases.took_in_all();
                        }
                    }
                }
                () = yield_now(), if is_more => {}
                () = sleep_until(self.window.due()), if crowded => self.give_back(),
                () = sleep_until(self.pace.next()), if waits => {}
                () = leases.freed(), if self.is_full() || !self.crowd.has_returned() => {}
                () = leases.renewal(), if !leases.are_renewed() => {}
                // What was parked makes room; what has begun may be what a control event waits for.
                () = slots.changed(), if draining || limited || !self.buffer.is_empty() => {}
                () = at(self.crowd.due(waits)) => self.pace.now(),
                // More of a key can be claimed once all that is held of it is settled.
                () = leases.key_freed(), if waits => self.pace.now(),
                Some(step) = self.lanes.step() => {
                    let stepped = self.lanes.follow(step);
                    self.go_on(stepped);
                }
                woken = changed(&mut self.wakeups), if waits => {
                    if woken { self.pace.now() } else { self.wakeups = None }
                }
                asked = stops.next() => self.asked(asked, stops),
                () = at(self.deadline), if self.phase != Phase::Cancelling => {
                    warn!(queue = %self.settings.queue, "time is up: running handlers are cancelled");
                    self.cancel();
                }
                // The store does not answer, or a handler does not yield.
                () = at(self.gives_up) => self.give_up(),
            }
        }
    }

    pub(crate) fn send(&self, receipt: Receipt, settle: Settle, tally: Tally) {
        send(&self.settler, (receipt, None), (None, settle), tally);
    }
}
