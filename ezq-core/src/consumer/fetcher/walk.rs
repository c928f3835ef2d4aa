//! The walk past busy handlers: looking past deliveries that only wait for a handler's limit.
//!
//! A consumer holds a bounded number of deliveries that wait for a handler with a limit. With that
//! the handler *has enough*, and nothing is fetched until half of them have begun. If this takes
//! longer than a moment, events of other handlers would wait behind. So the consumer walks through
//! the queue:
//!
//! - Each claim begins after the position that the walk has reached.
//! - A delivery for a handler that has enough goes back to its place at once.
//! - For each handler the walk remembers where the released deliveries begin. Once the handler has
//!   room, the next claim goes back there. What is passed again is released again.
//! - The walk is over when every handler has room and nothing that was released is left.
//!
//! Only then claims begin at the front again. Only a claim from the front tells that the queue is
//! empty, or that nothing stands before an `End`.
//!
//! Some deliveries before the reached position could not be claimed when the walk passed: another
//! consumer gave them back later, or another of their key held them up. The next walk finds them. A
//! walk that took t is followed by the next one 10 t after its beginning. A walk reads and writes all
//! that it passes, so this bounds its share of the work.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::consumer::fetcher::pace::Pace;
use crate::consumer::fetcher::window::Window;
use crate::consumer::scope::RunScope;
use crate::consumer::workload::lanes::Lanes;
use crate::dispatch::backlogs::Backlogs;
use crate::dispatch::work::Work;
use crate::engine::{Position, Receipt};

/// For how long a handler may have enough before the walk begins. Walks begin at least this far
/// apart.
const MOMENT: Duration = Duration::from_secs(1);
/// A walk that took t is followed by the next one 10 t after its beginning.
const REST_FACTOR: u32 = 10;
/// Above this many released deliveries, those that are settled are forgotten at once.
const MAX_RETURNING: usize = 1000;

/// What a consumer knows of its busy handlers, and its walk past them.
#[derive(Debug, Default)]
pub(crate) struct BusyHandlers {
    /// Whether a walk can help: the queue has other handlers and the engine claims in order.
    can_walk: bool,
    /// Since when some handler has had enough.
    busy_since: Option<Instant>,
    walk: Option<Walk>,
    /// Released deliveries whose settlement is not confirmed: a claim does not see them.
    returning: Vec<Receipt>,
    /// The next claim is to find the released deliveries, so it waits until they are settled.
    is_awaiting_returns: bool,
    answer: AnswerState,
}

#[derive(Debug)]
struct Walk {
    /// The position that was passed last: the next claim begins after it.
    reached: Position,
    began: Instant,
    /// When the walk last passed something.
    advanced: Instant,
    /// For each handler, by its index: the position after which its released deliveries stand.
    left: Vec<Option<Position>>,
    /// The next claim goes back, and everything that was released is in its place again.
    is_ready: bool,
}

/// What is known of the answer that is being taken in.
#[derive(Debug, Default)]
struct AnswerState {
    /// The position after which the next delivery is the first that could be claimed.
    after: Option<Position>,
    /// The handlers whose released deliveries this answer brings again.
    refilled: Vec<usize>,
    /// The handlers of the deliveries that were kept so far.
    kept_for: Vec<usize>,
    /// The last position that was released.
    passed: Option<Position>,
    /// The ordering keys of what was released.
    released_keys: HashSet<String>,
}

/// Where a claim begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimStart {
    Front,
    /// After what the walk has passed.
    Onward(Position),
    /// After the position where the released deliveries of a handler begin.
    Back(Position),
}

impl ClaimStart {
    pub(crate) fn after(&self) -> Option<&Position> {
        match self {
            Self::Front => None,
            Self::Onward(position) | Self::Back(position) => Some(position),
        }
    }
}

impl Walk {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            reached: Position::FIRST,
            began: now,
            advanced: now,
            left: Vec::new(),
            is_ready: false,
        }
    }

    /// When the next walk begins.
    fn next(&self) -> Instant {
        let took = self.advanced.saturating_duration_since(self.began);
        later(self.began, took.saturating_mul(REST_FACTOR).max(MOMENT))
    }

    /// Where the released deliveries begin of those handlers that have room for them.
    fn wanted(&self, backlogs: &Backlogs) -> Option<&Position> {
        self.left
            .iter()
            .enumerate()
            .filter(|(handler, _)| backlogs.has_room(*handler))
            .filter_map(|(_, position)| position.as_ref())
            .min()
    }

    fn is_over(&self, backlogs: &Backlogs) -> bool {
        backlogs.is_relaxed() && self.left.iter().all(Option::is_none)
    }

    /// Notes that a delivery of a handler is released, which stands after a position.
    fn leave(&mut self, handler: usize, after: &Position) {
        if self.left.len() <= handler {
            self.left.resize(handler + 1, None);
        }
        let left = &mut self.left[handler];
        if left.as_ref().is_none_or(|left| after < left) {
            *left = Some(after.clone());
        }
    }
}

impl BusyHandlers {
    pub(crate) fn new(can_walk: bool) -> Self {
        Self {
            can_walk,
            ..Self::default()
        }
    }

    /// Whether a walk is under way.
    pub(crate) fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Whether more may be fetched.
    pub(crate) fn allow_fetching(&self) -> bool {
        !self.is_awaiting_returns && (self.busy_since.is_none() || self.walk.is_some())
    }

    /// When to review the limits if nothing happens until then. A walk is reviewed only while the
    /// consumer waits for the time of its next claim.
    pub(crate) fn review_due(&self, is_waiting: bool) -> Option<Instant> {
        match &self.walk {
            Some(walk) => is_waiting.then(|| walk.next()),
            None => self
                .busy_since
                .filter(|_| self.can_walk)
                .map(|since| later(since, MOMENT)),
        }
    }

    /// Whether every released delivery is in its place again.
    pub(crate) fn have_returned(&self) -> bool {
        self.returning.is_empty()
    }

    /// Begins to take in an answer.
    pub(crate) fn begin_answer(&mut self, start: &ClaimStart) {
        self.answer = AnswerState::default();
        let Some(walk) = &mut self.walk else { return };

        let after = start.after().unwrap_or(&Position::FIRST);
        self.answer.after = Some(after.clone());

        if let ClaimStart::Back(begun) = start {
            for (handler, left) in walk.left.iter_mut().enumerate() {
                if left.as_ref() == Some(begun) {
                    *left = None;
                    self.answer.refilled.push(handler);
                }
            }
        }
    }

    /// Ends an answer with its last position, if it brought anything.
    pub(crate) fn end_answer(&mut self, start: &ClaimStart, last: Option<Position>) {
        let AnswerState {
            refilled, passed, ..
        } = std::mem::take(&mut self.answer);
        let Some(walk) = &mut self.walk else { return };

        if *start != ClaimStart::Front
            && let Some(passed) = passed.filter(|passed| *passed > walk.reached)
        {
            walk.reached = passed;
            walk.advanced = Instant::now();
        }

        // What follows, up to where the walk has been, is to be claimed again.
        if let Some(last) = last.filter(|last| *last < walk.reached) {
            for handler in refilled {
                if walk.left[handler].is_none() {
                    walk.leave(handler, &last);
                }
            }
        }
    }

    /// Sees which handlers have enough; begins, prepares or ends a walk accordingly.
    pub(crate) fn review(&mut self, scope: &RunScope, pace: &mut Pace, window: &mut Window) {
        let backlogs = &scope.admission.backlogs;
        if backlogs.is_empty() {
            return;
        }
        let Some(walk) = &mut self.walk else {
            return self.begin_if_busy(backlogs, pace);
        };

        let is_over = walk.is_over(backlogs);
        let goes_back = is_over || walk.wanted(backlogs).is_some() || walk.next() <= Instant::now();

        if goes_back || self.returning.len() > MAX_RETURNING {
            self.returning.retain(|receipt| scope.leases.holds(receipt));
        }
        self.is_awaiting_returns = goes_back && !self.returning.is_empty();

        let is_ready = goes_back && !self.is_awaiting_returns;
        let was_ready = std::mem::replace(&mut walk.is_ready, is_ready);
        if is_ready && !was_ready {
            pace.now();
        }
        if is_ready && is_over {
            self.walk = None;
            self.busy_since = None;
            // What is fetched now is for handlers with limits again.
            window.shrink();
        }
    }

    fn begin_if_busy(&mut self, backlogs: &Backlogs, pace: &mut Pace) {
        if backlogs.is_relaxed() {
            self.busy_since = None;
        } else if backlogs.is_crowded() {
            self.busy_since.get_or_insert_with(Instant::now);
        }

        let is_long = self
            .busy_since
            .is_some_and(|since| since.elapsed() >= MOMENT);
        if self.can_walk && is_long {
            self.walk = Some(Walk::begin());
            pace.now();
        }
    }

    /// Where the next claim begins.
    pub(crate) fn next_start(&mut self, backlogs: &Backlogs) -> ClaimStart {
        let Some(walk) = &mut self.walk else {
            return ClaimStart::Front;
        };
        if walk.is_ready && walk.next() <= Instant::now() {
            *walk = Walk::begin();
        }

        match walk.wanted(backlogs) {
            Some(position) if walk.is_ready => ClaimStart::Back(position.clone()),
            _ => ClaimStart::Onward(walk.reached.clone()),
        }
    }

    /// Whether a delivery goes back at once: its handler has enough, or it follows a delivery of its
    /// key that goes back.
    pub(crate) fn pass_over(
        &mut self,
        scope: &RunScope,
        lanes: &Lanes,
        work: &Work,
        key: Option<&str>,
    ) -> bool {
        let Some(walk) = &mut self.walk else {
            return false;
        };
        let answer = &mut self.answer;
        // A lane that has begun goes on.
        if key.is_some_and(|key| lanes.has(key)) {
            return false;
        }

        let position = work.received.position();
        if !key.is_some_and(|key| answer.released_keys.contains(key)) {
            let due = scope.app.dispatcher.backlogs_of(work);
            let full = answer.full_handlers(&due, &scope.admission.backlogs);
            if full.is_empty() {
                answer.kept_for.extend(due);
                answer.after = Some(position);
                return false;
            }
            if let Some(after) = &answer.after {
                for handler in full {
                    walk.leave(handler, after);
                }
            }
        }

        answer.released_keys.extend(key.map(str::to_owned));
        answer.after = Some(position.clone());
        answer.passed = answer.passed.take().max(Some(position));
        self.returning.push(work.received.receipt.clone());
        true
    }
}

impl AnswerState {
    /// Those handlers that have enough, counting what this answer brought already.
    fn full_handlers(&self, due: &[usize], backlogs: &Backlogs) -> Vec<usize> {
        due.iter()
            .copied()
            .filter(|handler| {
                let to_come = self.kept_for.iter().filter(|kept| *kept == handler);
                backlogs.has_enough(*handler, to_come.count())
            })
            .collect()
    }
}

/// Whether looking past one handler's events can help: other events may stand behind them.
pub(crate) fn can_walk(scope: &RunScope) -> bool {
    let settings = &scope.settings;
    let handlers = scope.app.dispatcher.registry.of(&settings.queue).iter();
    let ordinary = handlers.filter(|handler| !handler.takes_control()).count();
    ordinary > 1 && settings.engine.capabilities().ordered
}
