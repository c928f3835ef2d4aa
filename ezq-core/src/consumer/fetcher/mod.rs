//! Fetching: one request at a time, sized by what there is room for.

pub(crate) mod pace;
pub(crate) mod transactional;
pub(crate) mod walk;
pub(crate) mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span, info};

use crate::consumer::fetcher::pace::Pace;
use crate::consumer::fetcher::transactional::Direct;
use crate::consumer::fetcher::walk::Look;
use crate::consumer::prepare::Wakeups;
use crate::consumer::run::{Phase, Run};
use crate::engine::{Delivery, LeaseRequest, Leased};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::event::Control;
use crate::logging::{error, warn};
use crate::observe::report::Tally;

/// How many batches are claimed and handled in transactions at once: one works while the other
/// commits. No leased fetch runs beside them.
const DIRECT: usize = 2;

/// What a fetch came to.
pub(crate) enum Fetched {
    Leased(Box<Answer>),
    /// A batch was claimed and handled in one transaction, or is to be leased.
    Direct(Option<(usize, bool)>),
}

/// What came of asking for deliveries.
pub(crate) struct Answer {
    result: Result<Leased>,
    sent: Instant,
    full: bool,
    /// Everything fetched before was settled when this was sent.
    settled: bool,
    /// No delivery with an ordering key was held when this was sent: none held up what may have
    /// followed it.
    keyless: bool,
    /// Sent while deliveries that came before were not taken in yet.
    early: bool,
    /// How it looked at the queue, and whether all that was given back for want of room was in its
    /// place then.
    look: Look,
    returned: bool,
    /// Its number among the claims.
    number: u64,
    /// What came of creating the queue again, where it was gone.
    created: Option<Result<()>>,
    /// What came of asking for wake-ups once more, where that had failed.
    wakeups: Option<Wakeups>,
}

impl Fetched {
    /// The engine panicked.
    pub(crate) fn panicked() -> Self {
        let result = Err(Error::new(
            ErrorKind::Engine,
            "the engine panicked while claiming",
        ));
        Self::Leased(Box::new(Answer::new(result, Instant::now())))
    }
}

impl Answer {
    fn new(result: Result<Leased>, sent: Instant) -> Self {
        let (full, settled, keyless, early) = (false, false, false, false);
        let (look, returned, number) = (Look::Front, false, 0);
        let (created, wakeups) = (None, None);
        Self {
            result,
            sent,
            full,
            settled,
            keyless,
            early,
            look,
            returned,
            number,
            created,
            wakeups,
        }
    }
}

impl Run {
    /// Whether there is a reason to fetch.
    pub(crate) fn wants_more(&self) -> bool {
        let phase = match self.phase {
            Phase::Running => true,
            Phase::Draining => !self.drained,
            Phase::Finishing | Phase::Cancelling => false,
        };
        let short = self.buffer.len() + self.incoming <= self.window.low();
        // A claim might bring what is held here and was not renewed in time.
        let is_open = short && self.crowd.is_open();
        phase && is_open && !self.is_full() && self.room() > 0 && self.leases.are_renewed()
    }

    /// Whether so much waits to be settled that more would only be held: until room for a fetch
    /// worth its round trip is freed.
    pub(crate) fn is_full(&self) -> bool {
        self.allowance() < self.settings.concurrency
    }

    /// How much more may be held, what is handled and not settled included; what waits for another
    /// of its key, or for its handler's limit, has a bound of its own.
    fn allowance(&self) -> usize {
        let unsettled = self.app.config.settle_batch.saturating_mul(4);
        let apart = self.lanes.waiting() + self.slots.aside();
        let held = self.leases.count().saturating_sub(apart);
        self.most()
            .saturating_add(unsettled)
            .saturating_sub(held + self.incoming)
    }

    /// How much more may be asked for.
    fn room(&self) -> usize {
        let unhandled = self.buffer.len() + self.incoming + self.at_work();
        self.most().saturating_sub(unhandled).min(self.allowance())
    }

    /// How much to ask for at once.
    fn share(&self) -> usize {
        self.window.share().saturating_add(self.batch_room)
    }

    /// How much may be held unhandled.
    fn most(&self) -> usize {
        self.window.size().saturating_add(self.batch_room)
    }

    /// Whether the next batch is to be claimed and handled in one transaction.
    fn goes_direct(&self) -> bool {
        self.backlog
            && self.phase == Phase::Running
            && self.slots.is_proven()
            && self
                .app
                .dispatcher
                .sole_batch(&self.settings.queue)
                .is_some()
    }

    pub(crate) fn start_fetch(&mut self) {
        if !self.wants_more() || Instant::now() < self.pace.next() {
            return;
        }
        if self.goes_direct() {
            // Among what is leased and not taken in yet may be an `End`, which is not to be passed.
            if self.fetch.len() >= DIRECT || self.leasing.is_some() || self.incoming > 0 {
                return;
            }
            let direct = Direct {
                app: Arc::clone(&self.app),
                queue: self.settings.queue.clone(),
                slots: Arc::clone(&self.slots),
                lease: Arc::clone(&self.direct),
            };
            self.fetch
                .spawn(async move { Fetched::Direct(direct.run().await) }.in_current_span());
            return self.start_fetch();
        }
        // What an `Interrupt` is to cancel in the end must not keep its turn from coming.
        let beside = matches!(self.control, Some((_, Control::Interrupt)));
        if self.leasing.is_some() || !(self.fetch.is_empty() || beside) {
            return;
        }
        let look = self.next_look();
        let request = LeaseRequest {
            queue: self.settings.queue.clone(),
            max: self.room().min(self.share()),
            ttl: self.settings.lease,
            keys: self.settings.concurrency.saturating_add(self.batch_room),
            before: self.control.as_ref().map(|(item, _)| item.position.clone()),
            after: look.after().cloned(),
        };
        let engine = Arc::clone(&self.settings.engine);
        let (early, number) = (self.incoming > 0, self.leases.claim());
        let (settled, keyless) = (self.leases.count() == 0, self.leases.keyed() == 0);
        let (deaf, returned) = (self.deaf, self.crowd.has_returned());
        let fetch = async move {
            let (queue, max) = (request.queue.clone(), request.max);
            let span = debug_span!(parent: None, "ezq.lease", %queue, max);
            let sent = Instant::now();
            let result = engine.lease(request).instrument(span).await;
            let full = result
                .as_ref()
                .is_ok_and(|leased| leased.deliveries.len() >= max);
            let answer = Answer::new(result, sent);
            let mut fetched = Answer {
                full,
                settled,
                keyless,
                early,
                look,
                returned,
                number,
                ..answer
            };
            match &fetched.result {
                Err(error) if error.kind() == ErrorKind::QueueMissing => {
                    fetched.created = Some(engine.ensure_queue(&queue).await);
                }
                Ok(leased) if deaf && leased.deliveries.is_empty() => {
                    fetched.wakeups = engine.wakeups(&queue).await.ok();
                }
                _ => {}
            }
            Fetched::Leased(Box::new(fetched))
        };
        self.leasing = Some(self.fetch.spawn(fetch.in_current_span()));
    }

    pub(crate) async fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Leased(answer) => {
                let number = answer.number;
                self.leased(*answer).await;
                self.leases.took_in(number);
            }
            Fetched::Direct(handled) => {
                let (count, backlog) = handled.unwrap_or_default();
                if count > 0 {
                    self.observed.claimed(Ok(()));
                }
                for _ in 0..count {
                    self.counters.add(Tally::Handled);
                }
                self.backlog = backlog;
                self.pace.now();
            }
        }
    }

    async fn leased(&mut self, fetched: Answer) {
        self.leasing = None;
        if let Some(wakeups) = fetched.wakeups {
            self.deaf = false;
            self.pace = Pace::of(&self.app.config, wakeups.is_some());
            self.wakeups = wakeups;
        }
        let leased = match fetched.result {
            Ok(leased) => leased,
            Err(error) => return self.fetch_failed(&error, fetched.created),
        };
        self.observed.claimed(Ok(()));
        self.backlog = fetched.full;
        if std::mem::take(&mut self.failing) {
            info!(queue = %self.settings.queue, "fetching works again");
        }
        if leased.deliveries.is_empty() {
            if fetched.early {
                // What was taken in since may have changed what there is to find: an `End`, above all.
                return self.pace.now();
            }
            self.crowd.takes_in(&fetched.look);
            self.crowd.took_in(&fetched.look, None);
            match (&fetched.look, self.phase) {
                (Look::Again(_), _) => return self.pace.now(),
                // What it looked past is still to come.
                (Look::On(_), _) => {}
                _ if !fetched.returned => {}
                // What of a key is held may hold up what follows it.
                (_, Phase::Draining) if fetched.keyless || !leased.is_held_up => {
                    self.drained = true;
                }
                (_, Phase::Running) if self.settings.until_idle => {
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
        // What waits for its handler's limit would only be more of it, unless that is looked past.
        let busy = if self.crowd.walks() {
            self.at_work()
        } else {
            self.tasks.len()
        };
        let starved = self.buffer.is_empty() && busy <= self.settings.concurrency / 2;
        let bytes = leased
            .deliveries
            .iter()
            .map(|delivery| delivery.body.len())
            .sum();
        self.window.filled(fetched.full, starved, bytes);
        if fetched.full && !self.crowd.walks() {
            // The next are claimed while these are read.
            self.incoming = leased.deliveries.len();
            self.start_fetch();
            self.incoming = 0;
            yield_now().await;
        }
        let last = leased.deliveries.last().map(Delivery::position);
        self.crowd.takes_in(&fetched.look);
        for delivery in leased.deliveries {
            self.accept(delivery, fetched.sent);
        }
        self.crowd.took_in(&fetched.look, last);
    }

    fn fetch_failed(&mut self, error: &Error, created: Option<Result<()>>) {
        self.observed.claimed(Err(error));
        let queue = &self.settings.queue;
        let text = error_chain(error);
        if !std::mem::replace(&mut self.failing, true) {
            if error.is_transient() {
                warn!(%queue, error = %text, "fetching failed, will try again");
            } else {
                error!(%queue, error = %text, "fetching failed, will try again");
            }
        }
        match created {
            Some(Ok(())) => warn!(%queue, "the queue was gone and is created again"),
            Some(Err(error)) => {
                error!(%queue, error = %error_chain(&error), "the queue cannot be created");
            }
            None => {}
        }
        self.pace.failed(rand::random());
    }
}
