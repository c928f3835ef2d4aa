//! The coordinator of one consumer: one fetch at a time, a bounded buffer, a task per delivery.
//!
//! Invariants: what is fetched is held in the lease table until it is settled, given back or lost;
//! at most twice the concurrency is held unhandled; after a stop was decided nothing new starts,
//! but for what stood before an `End`.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, debug, debug_span, error, info, warn};

use super::Stops;
use super::lease::{Leases, renew};
use super::pace::Pace;
use super::report::{Counters, Report, StopReason, Tally};
use super::settle::{InFlight, Settler, Settling};
use super::signals::Signals;
use crate::app::Inner;
use crate::codec::{Origin, decode};
use crate::context::{Lease, Received};
use crate::dispatcher::{EngineClock, Work, bounded, log_dead_letter};
use crate::engine::{Delivery, Engine, LeaseRequest, Leased, Position, Receipt};
use crate::event::{Control, End, Interrupt, is_control};
use crate::settlement::{Progress, Reason, ReasonKind, Settle};
use crate::{Error, ErrorKind, QueueName, Result, error_chain};

/// How long an `End` for all consumers stays for those that were too busy to meet it, and how long
/// one that began later leaves it to them before it looks again.
const KEPT_FOR_ALL: chrono::TimeDelta = chrono::TimeDelta::minutes(10);
const LEFT_TO_OTHERS: Duration = Duration::from_secs(1);

/// What one run is told.
pub(super) struct Settings {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) queue: QueueName,
    pub(super) concurrency: usize,
    pub(super) lease: Duration,
    pub(super) grace: Option<Duration>,
    pub(super) signals: bool,
    pub(super) until_idle: bool,
}

/// A delivery that waits for its turn.
struct Item {
    receipt: Receipt,
    position: Position,
    work: Work,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// What precedes an `End` is handled; then the consumer stops.
    Draining,
    /// Nothing new starts; what runs may finish.
    Finishing,
    /// What runs is cancelled.
    Cancelling,
}

type Fetch = Pin<Box<dyn Future<Output = Fetched> + Send>>;

struct Fetched {
    result: Result<Leased>,
    sent: Instant,
    full: bool,
    /// Everything fetched before was settled when this was sent.
    settled: bool,
}

struct Run {
    app: Arc<Inner>,
    settings: Settings,
    counters: Arc<Counters>,
    leases: Arc<Leases>,
    settler: mpsc::Sender<Settling>,
    tasks: JoinSet<()>,
    buffer: VecDeque<Item>,
    fetch: Option<Fetch>,
    pace: Pace,
    phase: Phase,
    reason: StopReason,
    deadline: Option<Instant>,
    /// The control event that stops this run, kept leased until the end unless it is for all.
    control: Option<(Item, Control)>,
    /// Nothing is left before the `End`.
    drained: bool,
    started: Instant,
    failing: bool,
}

/// Runs a consumer until it is stopped.
pub(super) async fn run(
    app: Arc<Inner>,
    settings: Settings,
    stops: Stops,
    counters: Arc<Counters>,
) -> Result<Report> {
    let mut signals = settings.signals.then(Signals::listen).transpose()?;
    let started = Instant::now();
    let Some(wakeups) = prepare(&settings, &stops).await? else {
        let reason =
            if stops.token.is_cancelled() { StopReason::Token } else { StopReason::Handle };
        return Ok(Report { reason, counts: counters.counts(), elapsed: started.elapsed() });
    };
    let leases = Arc::new(Leases::default());
    let in_flight = Arc::new(InFlight::default());
    let (sender, receiver) = mpsc::channel(4 * app.config.settle_batch);
    let settler = Settler {
        engine: Arc::clone(&settings.engine),
        queue: settings.queue.clone(),
        leases: Arc::clone(&leases),
        counters: Arc::clone(&counters),
        in_flight: Arc::clone(&in_flight),
        batch: app.config.settle_batch,
        max_age: app.config.settle_max_age,
        patience: settings.lease,
    };
    let mut background = JoinSet::new();
    let settling = tokio::spawn(settler.run(receiver));
    background.spawn(renew(
        Arc::clone(&leases),
        Arc::clone(&settings.engine),
        settings.queue.clone(),
        settings.lease,
        move |receipt| in_flight.contains(receipt),
    ));
    let config = &app.config;
    let (min, max) = if wakeups.is_some() { (1000, 5000) } else { (100, 1000) };
    let pace = Pace::new(
        config.poll_min.unwrap_or(Duration::from_millis(min)),
        config.poll_max.unwrap_or(Duration::from_millis(max)),
    );
    info!(
        queue = %settings.queue,
        engine = settings.engine.capabilities().name,
        concurrency = settings.concurrency,
        handlers = ?app.dispatcher.registry.handlers().iter().map(|h| h.name.as_str()).collect::<Vec<_>>(),
        "consumer started"
    );
    let mut run = Run {
        app,
        settings,
        counters: Arc::clone(&counters),
        leases,
        settler: sender,
        tasks: JoinSet::new(),
        buffer: VecDeque::new(),
        fetch: None,
        pace,
        phase: Phase::Running,
        reason: StopReason::Idle,
        deadline: None,
        control: None,
        drained: false,
        started,
        failing: false,
    };
    run.drive(&stops, signals.as_mut(), wakeups).await;
    run.settle_control().await;
    let (queue, reason) = (run.settings.queue.clone(), run.reason);
    drop(run);
    if let Err(error) = settling.await {
        error!(%queue, %error, "the settling task failed");
    }
    drop(background);
    let report = Report { reason, counts: counters.counts(), elapsed: started.elapsed() };
    info!(%queue, "consumer {report}");
    Ok(report)
}

type Wakeups = Option<watch::Receiver<u64>>;

/// Makes sure of the queue and of its wake-ups; waits for a database that is only just not there.
/// `None` when the consumer was stopped meanwhile.
async fn prepare(settings: &Settings, stops: &Stops) -> Result<Option<Wakeups>> {
    let mut pause = Duration::from_millis(100);
    loop {
        match settings.engine.ensure_queue(&settings.queue).await {
            Ok(()) => break,
            Err(error) if error.is_transient() => {
                warn!(queue = %settings.queue, error = %error_chain(&error), "cannot start yet");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            () = stops.token.cancelled() => return Ok(None),
            () = stops.handle.cancelled() => return Ok(None),
            () = stops.interrupt.cancelled() => return Ok(None),
        }
    }
    let wakeups = settings.engine.wakeups(&settings.queue).await.unwrap_or_else(|error| {
        warn!(queue = %settings.queue, error = %error_chain(&error), "no wake-ups, polling only");
        None
    });
    Ok(Some(wakeups))
}

impl Run {
    async fn drive(
        &mut self,
        stops: &Stops,
        mut signals: Option<&mut Signals>,
        mut wakeups: Wakeups,
    ) {
        loop {
            self.start_tasks();
            if self.is_finished() {
                return;
            }
            self.start_fetch();
            let waits = self.fetch.is_none() && self.wants_more();
            let running = self.phase == Phase::Running;
            tokio::select! {
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        error!(queue = %self.settings.queue, %error, "a delivery's task failed");
                    }
                    if self.settings.until_idle && self.tasks.is_empty() {
                        self.pace.soon(Duration::from_millis(2));
                    }
                }
                fetched = poll(&mut self.fetch) => {
                    self.fetch = None;
                    self.fetched(fetched).await;
                }
                () = sleep_until(self.pace.next()), if waits => {}
                woken = changed(&mut wakeups), if waits => {
                    if woken { self.pace.now() } else { wakeups = None }
                }
                () = stops.token.cancelled(), if running => self.finish(StopReason::Token).await,
                () = stops.handle.cancelled(), if running => self.finish(StopReason::Handle).await,
                () = stops.interrupt.cancelled(), if self.phase != Phase::Cancelling => {
                    if running { self.reason = StopReason::Handle }
                    self.cancel().await;
                }
                () = next_signal(&mut signals), if self.phase != Phase::Cancelling => {
                    if running { self.finish(StopReason::Signal).await } else { self.cancel().await }
                }
                () = at(self.deadline), if self.phase != Phase::Cancelling => {
                    warn!(queue = %self.settings.queue, "time is up: running handlers are cancelled");
                    self.cancel().await;
                }
            }
        }
    }

    /// Starts what waits, as far as the concurrency allows.
    fn start_tasks(&mut self) {
        while self.tasks.len() < self.settings.concurrency {
            let Some(item) = self.buffer.pop_front() else { return };
            if !self.leases.holds(&item.receipt) {
                self.counters.add(Tally::Lost);
                continue;
            }
            self.tasks.spawn(handle(
                Arc::clone(&self.app),
                Arc::clone(&self.leases),
                self.settler.clone(),
                Arc::clone(&self.counters),
                item,
            ));
        }
    }

    fn wants_more(&self) -> bool {
        let phase = match self.phase {
            Phase::Running => true,
            Phase::Draining => !self.drained,
            Phase::Finishing | Phase::Cancelling => false,
        };
        phase && self.buffer.len() <= self.settings.concurrency / 2 && self.room() > 0
    }

    /// How much more may be held.
    fn room(&self) -> usize {
        let unhandled = self.buffer.len() + self.tasks.len();
        let most = 2 * self.settings.concurrency;
        let unsettled = most + 4 * self.app.config.settle_batch;
        most.saturating_sub(unhandled).min(unsettled.saturating_sub(self.leases.count()))
    }

    fn start_fetch(&mut self) {
        if self.fetch.is_some() || !self.wants_more() || Instant::now() < self.pace.next() {
            return;
        }
        let request = LeaseRequest {
            queue: self.settings.queue.clone(),
            max: self.room(),
            ttl: self.settings.lease,
            before: self.control.as_ref().map(|(item, _)| item.position.clone()),
        };
        let engine = Arc::clone(&self.settings.engine);
        let settled = self.leases.count() == 0;
        self.fetch = Some(Box::pin(async move {
            let max = request.max;
            let span = debug_span!("ezq.lease", queue = %request.queue, max);
            let sent = Instant::now();
            let result = engine.lease(request).instrument(span).await;
            let full = result.as_ref().is_ok_and(|leased| leased.deliveries.len() >= max);
            Fetched { result, sent, full, settled }
        }));
    }

    async fn fetched(&mut self, fetched: Fetched) {
        let leased = match fetched.result {
            Ok(leased) => leased,
            Err(error) => return self.fetch_failed(&error).await,
        };
        if std::mem::take(&mut self.failing) {
            info!(queue = %self.settings.queue, "fetching works again");
        }
        if leased.deliveries.is_empty() {
            match self.phase {
                Phase::Draining => self.drained = true,
                Phase::Running if self.settings.until_idle => {
                    if fetched.settled && self.tasks.is_empty() && self.buffer.is_empty() {
                        self.phase = Phase::Finishing;
                        return;
                    }
                    if self.tasks.is_empty() {
                        // Only settlements are on their way; they may bring forth more.
                        return self.pace.soon(Duration::from_millis(2));
                    }
                }
                _ => {}
            }
            return self.pace.idle(leased.next_due, rand::random());
        }
        debug!(queue = %self.settings.queue, count = leased.deliveries.len(), fetched.full, "leased");
        self.pace.now();
        for delivery in leased.deliveries {
            self.accept(delivery, fetched.sent).await;
        }
    }

    async fn fetch_failed(&mut self, error: &Error) {
        let queue = &self.settings.queue;
        let text = error_chain(error);
        if !std::mem::replace(&mut self.failing, true) {
            if error.is_transient() {
                warn!(%queue, error = %text, "fetching failed, will try again");
            } else {
                error!(%queue, error = %text, "fetching failed, will try again");
            }
        }
        if error.kind() == ErrorKind::QueueMissing {
            match self.settings.engine.ensure_queue(queue).await {
                Ok(()) => warn!(%queue, "the queue was gone and is created again"),
                Err(error) => {
                    error!(%queue, error = %error_chain(&error), "the queue cannot be created");
                }
            }
        }
        self.pace.failed(rand::random());
    }

    /// Takes in one delivery, in the order of the queue.
    async fn accept(&mut self, delivery: Delivery, sent: Instant) {
        let position = delivery.position();
        let stops_here = self.control.as_ref().is_some_and(|(item, _)| position > item.position);
        if stops_here || matches!(self.phase, Phase::Finishing | Phase::Cancelling) {
            return self.send(delivery.receipt, Settle::Release, Tally::Returned).await;
        }
        let deliveries = delivery.unsettled_deliveries();
        if deliveries > self.app.config.max_deliveries {
            let reason = Reason {
                kind: ReasonKind::MaxDeliveries,
                handler: None,
                error: "delivered too often without being settled: it may kill its workers".into(),
                attempts: deliveries,
            };
            return self.bury(delivery.receipt, reason).await;
        }
        let receipt = delivery.receipt.clone();
        let work = match self.read(delivery, sent) {
            Ok(work) => work,
            Err(error) => return self.bury_undecodable(receipt, &error).await,
        };
        self.leases.hold(&receipt, &work.received);
        let control = control(&work.received);
        let item = Item { receipt, position, work };
        match control {
            Ok(None) => self.buffer.push_back(item),
            Ok(Some(control)) => self.meet(item, control).await,
            Err(error) => {
                self.leases.release(&item.receipt);
                self.bury_undecodable(item.receipt, &error).await;
            }
        }
    }

    fn read(&self, delivery: Delivery, sent: Instant) -> Result<Work> {
        let message_id = delivery.receipt.message_id().clone();
        let origin = Origin {
            queue: &self.settings.queue,
            message_id: &message_id,
            enqueued_at: delivery.enqueued_at,
        };
        let envelope = decode(&delivery.body, origin)?;
        let received = Arc::new(Received {
            envelope,
            queue: self.settings.queue.clone(),
            message_id,
            headers: delivery.headers,
            deliveries: delivery.deliveries,
            enqueued_at: delivery.enqueued_at,
            lease: Lease::new(sent, self.settings.lease),
        });
        Ok(Work { received, clock: EngineClock { at: delivery.leased_at, read: Instant::now() } })
    }

    async fn bury_undecodable(&mut self, receipt: Receipt, error: &Error) {
        let error = bounded(&error_chain(error));
        let kind = ReasonKind::Undecodable;
        self.bury(receipt, Reason { kind, handler: None, error, attempts: 1 }).await;
    }

    async fn bury(&mut self, receipt: Receipt, reason: Reason) {
        log_dead_letter(&self.settings.queue, receipt.message_id(), None, &reason);
        let (progress, outgoing) = (Progress::default(), Vec::new());
        let settle = Settle::DeadLetter { reason, progress, outgoing };
        self.send(receipt, settle, Tally::DeadLettered).await;
    }

    /// Meets a control event; the earliest one counts.
    async fn meet(&mut self, item: Item, control: Control) {
        let for_all = is_for_all(&control);
        if for_all && self.began_after(&item.work) {
            let settle = left_to_others(&item.work);
            return self.send(item.receipt, settle, Tally::Control).await;
        }
        info!(queue = %self.settings.queue, "{control} received");
        if for_all {
            // The others are to meet it while this one drains.
            self.send(item.receipt.clone(), Settle::Release, Tally::Control).await;
        }
        if let Some((later, control)) = self.control.take()
            && !is_for_all(&control)
        {
            self.send(later.receipt, Settle::Release, Tally::Control).await;
        }
        let (after, before) = std::mem::take(&mut self.buffer)
            .into_iter()
            .partition::<Vec<_>, _>(|other| other.position > item.position);
        self.buffer = before.into();
        for other in after {
            self.send(other.receipt, Settle::Release, Tally::Returned).await;
        }
        match control {
            Control::End(End { timeout, .. }) => {
                self.reason = StopReason::End;
                self.phase = Phase::Draining;
                self.drained = !self.settings.engine.capabilities().ordered;
                self.deadline = timeout.map(|timeout| Instant::now() + timeout);
                self.control = Some((item, control));
            }
            Control::Interrupt => {
                self.reason = StopReason::Interrupt;
                self.control = Some((item, control));
                self.cancel().await;
            }
        }
    }

    /// Whether this consumer began only after a message was stored, by the engine's own clock.
    fn began_after(&self, work: &Work) -> bool {
        let since = work.clock.read.duration_since(self.started);
        let began = chrono::TimeDelta::from_std(since).map(|since| work.clock.at - since);
        began.is_ok_and(|began| began > work.received.enqueued_at)
    }

    /// Lets what runs finish; the rest goes back at once.
    async fn finish(&mut self, reason: StopReason) {
        self.reason = reason;
        self.phase = Phase::Finishing;
        self.deadline = self.settings.grace.map(|grace| Instant::now() + grace);
        self.return_buffer().await;
    }

    /// Cancels what runs; the rest goes back.
    async fn cancel(&mut self) {
        self.phase = Phase::Cancelling;
        self.leases.cancel_all(self.control.as_ref().map(|(item, _)| &item.receipt));
        self.return_buffer().await;
    }

    async fn return_buffer(&mut self) {
        for item in std::mem::take(&mut self.buffer) {
            self.send(item.receipt, Settle::Release, Tally::Returned).await;
        }
    }

    fn is_finished(&self) -> bool {
        let idle = self.tasks.is_empty() && self.buffer.is_empty() && self.fetch.is_none();
        idle && match self.phase {
            Phase::Running => false,
            Phase::Draining => self.drained,
            Phase::Finishing | Phase::Cancelling => true,
        }
    }

    /// Runs the handlers of the control event, then settles it.
    async fn settle_control(&mut self) {
        let Some((item, control)) = self.control.take() else { return };
        let outgoing = self.app.dispatcher.control(&item.work).await;
        if is_for_all(&control) {
            // It was given back when it was met.
            if let Err(error) = self.app.services.engines.publish(outgoing).await {
                warn!(error = %error_chain(&error), "events of a handler of End are not published");
            }
            return;
        }
        self.send(item.receipt, Settle::Ack { outgoing }, Tally::Control).await;
    }

    async fn send(&mut self, receipt: Receipt, settle: Settle, tally: Tally) {
        send(&self.settler, receipt, settle, tally).await;
    }
}

async fn send(settler: &mpsc::Sender<Settling>, receipt: Receipt, settle: Settle, tally: Tally) {
    let settling = Settling { receipt, settle, tally, since: Instant::now() };
    if settler.send(settling).await.is_err() {
        error!("the settling task is gone: the event will come again");
    }
}

/// Handles one delivery, in a task of its own.
async fn handle(
    app: Arc<Inner>,
    leases: Arc<Leases>,
    settler: mpsc::Sender<Settling>,
    counters: Arc<Counters>,
    item: Item,
) {
    let mut settle = app.dispatcher.dispatch(&item.work).await;
    if !leases.holds(&item.receipt) {
        return counters.add(Tally::Lost);
    }
    let cancelled = item.work.received.lease.cancel().is_cancelled();
    if let Err(error) = app.publish_elsewhere(&item.work.received.queue, &mut settle).await {
        warn!(error = %error_chain(&error), "events could not be published: the event comes again");
        settle = Settle::Retry {
            after: Duration::from_secs(1),
            progress: Progress::default(),
            outgoing: Vec::new(),
        };
    }
    let tally = match settle {
        Settle::Ack { .. } => Tally::Handled,
        Settle::DeadLetter { .. } => Tally::DeadLettered,
        Settle::Retry { .. } | Settle::Release if cancelled => Tally::Cancelled,
        Settle::Retry { .. } => Tally::Retried,
        Settle::Release => Tally::Returned,
    };
    send(&settler, item.receipt, settle, tally).await;
}

/// The control event that a delivery is, if it is one.
fn control(received: &Received) -> Result<Option<Control>> {
    if !is_control(received.envelope.event_type()) {
        return Ok(None);
    }
    if received.is::<End>() {
        return received.envelope.decode().map(|end| Some(Control::End(end)));
    }
    received.envelope.decode::<Interrupt>().map(|_| Some(Control::Interrupt))
}

fn is_for_all(control: &Control) -> bool {
    matches!(control, Control::End(End { all: true, .. }))
}

/// What a consumer that began after an `End` for all does with it.
fn left_to_others(work: &Work) -> Settle {
    if work.clock.at - work.received.enqueued_at > KEPT_FOR_ALL {
        return Settle::Ack { outgoing: Vec::new() };
    }
    let progress = Progress::default();
    Settle::Retry { after: LEFT_TO_OTHERS, progress, outgoing: Vec::new() }
}

async fn poll(fetch: &mut Option<Fetch>) -> Fetched {
    match fetch {
        Some(fetch) => fetch.await,
        None => pending().await,
    }
}

async fn changed(wakeups: &mut Wakeups) -> bool {
    match wakeups {
        Some(wakeups) => wakeups.changed().await.is_ok(),
        None => pending().await,
    }
}

async fn next_signal(signals: &mut Option<&mut Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
