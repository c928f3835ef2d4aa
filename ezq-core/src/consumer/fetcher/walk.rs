//! Looking past what only waits for a handler's limit.
//!
//! Of each handler that has a limit a consumer holds some events that wait for it, and no more: then
//! the handler has enough, and at first nothing is fetched until half of that is begun. Where this
//! takes longer than a moment, events of other handlers would wait behind. So the consumer walks
//! through the queue: what comes for a handler that has enough goes back to its place at once, and
//! the next fetch looks after that place. A walk reads and writes all that it passes.
//!
//! For each handler it is known where what was given back begins. Once the handler has room, the next
//! fetch looks from there on; what is passed again goes back again. The walk is over when each
//! handler has room and nothing that was given back is left. Then fetches begin at the front: only
//! these tell that a queue is empty, or that nothing stands before an `End`.
//!
//! What stands before the place that the walk has reached, and could not be handed out then (it was
//! given back by another consumer, or another of its key held it up), is found by the next walk. That
//! begins when ten times the time has passed that this one took.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::consumer::run::{Item, Run};
use crate::dispatch::limits::Limited;
use crate::engine::{Position, Receipt};

/// For how long a handler may have enough before the consumer looks past its events; and how long
/// after a walk began the next one does at the earliest.
const MOMENT: Duration = Duration::from_secs(1);
/// How many times as long as a walk took passes from its beginning to the next.
const SHARE: u32 = 10;

/// With so much on its way back, what has arrived is forgotten.
const MANY: usize = 1000;

/// What a consumer knows of handlers that have enough.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Others have handlers on the queue, too, and the engine can look past a place.
    looks_past: bool,
    /// Since when some handler has had enough.
    since: Option<Instant>,
    walk: Option<Walk>,
    /// What was given back, until it is settled.
    returning: Vec<Receipt>,
    /// The next fetch is to find that, and waits until it is in its place.
    waits: bool,
    intake: Intake,
}

#[derive(Debug)]
struct Walk {
    /// What was passed: the next fetch looks after this place.
    reached: Position,
    began: Instant,
    /// When it last passed something.
    passed: Instant,
    /// For each handler, by its number: the place after which all stands that was given back.
    left: Vec<Option<Position>>,
    /// It is to look back, and what was given back is in its place again.
    is_ready: bool,
}

/// What is known of the fetch that is being taken in.
#[derive(Debug, Default)]
struct Intake {
    /// The place after which the next delivery is the first that could be handed out.
    after: Option<Position>,
    /// For which handlers it is to bring what was given back.
    refilled: Vec<usize>,
    /// For which handlers its deliveries are, as far as they are kept.
    to_come: Vec<usize>,
    /// The last place of what is given back, and the keys of all that is.
    passed: Option<Position>,
    keys: HashSet<String>,
}

/// How a fetch looks at the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// From the front.
    Front,
    /// After what the walk has passed.
    On(Position),
    /// After the place where what was given back for a handler begins.
    Again(Position),
}

impl Look {
    pub(crate) fn after(&self) -> Option<&Position> {
        match self {
            Self::Front => None,
            Self::On(place) | Self::Again(place) => Some(place),
        }
    }
}

impl Walk {
    fn begin() -> Self {
        let now = Instant::now();
        let (reached, left) = (Position::FIRST, Vec::new());
        Self {
            reached,
            began: now,
            passed: now,
            left,
            is_ready: false,
        }
    }

    /// When the next one begins.
    fn next(&self) -> Instant {
        let took = self.passed.saturating_duration_since(self.began);
        later(self.began, took.saturating_mul(SHARE).max(MOMENT))
    }

    /// Where what was given back begins, of the handlers that have room for it.
    fn wanted(&self, limited: &Limited) -> Option<&Position> {
        let left = self.left.iter().enumerate();
        let wanted = left.filter(|(handler, _)| limited.has_room(*handler));
        wanted.filter_map(|(_, place)| place.as_ref()).min()
    }

    fn is_over(&self, limited: &Limited) -> bool {
        limited.is_relaxed() && self.left.iter().all(Option::is_none)
    }

    /// Notes that something for a handler is given back, which stands after a place.
    fn leave(&mut self, handler: usize, after: &Position) {
        if self.left.len() <= handler {
            self.left.resize(handler + 1, None);
        }
        let place = &mut self.left[handler];
        if place.as_ref().is_none_or(|place| after < place) {
            *place = Some(after.clone());
        }
    }
}

impl Crowd {
    pub(crate) fn new(looks_past: bool) -> Self {
        Self {
            looks_past,
            ..Self::default()
        }
    }

    pub(crate) fn walks(&self) -> bool {
        self.walk.is_some()
    }

    /// Whether more is to be fetched.
    pub(crate) fn is_open(&self) -> bool {
        !self.waits && (self.since.is_none() || self.walk.is_some())
    }

    /// When to look at the limits again, if nothing happens until then: while the consumer waits for
    /// the time of its next fetch, or not.
    pub(crate) fn due(&self, waits: bool) -> Option<Instant> {
        match &self.walk {
            Some(walk) => waits.then(|| walk.next()),
            None => self
                .since
                .filter(|_| self.looks_past)
                .map(|since| later(since, MOMENT)),
        }
    }

    /// Whether all that was given back is in its place again.
    pub(crate) fn has_returned(&self) -> bool {
        self.returning.is_empty()
    }

    /// Takes in the answer to a fetch from now on.
    pub(crate) fn takes_in(&mut self, look: &Look) {
        self.intake = Intake::default();
        let Some(walk) = &mut self.walk else { return };
        let after = look.after().unwrap_or(&Position::FIRST);
        self.intake.after = Some(after.clone());
        if let Look::Again(begun) = look {
            for (handler, place) in walk.left.iter_mut().enumerate() {
                if place.as_ref() == Some(begun) {
                    *place = None;
                    self.intake.refilled.push(handler);
                }
            }
        }
    }

    /// All of it is taken in; its last place, if there was anything.
    pub(crate) fn took_in(&mut self, look: &Look, last: Option<Position>) {
        let Intake {
            refilled, passed, ..
        } = std::mem::take(&mut self.intake);
        let Some(walk) = &mut self.walk else { return };
        if *look != Look::Front
            && let Some(place) = passed.filter(|place| *place > walk.reached)
        {
            walk.reached = place;
            walk.passed = Instant::now();
        }
        // What follows is to be looked at again, up to where the walk has been.
        if let Some(last) = last.filter(|last| *last < walk.reached) {
            for handler in refilled {
                if walk.left[handler].is_none() {
                    walk.leave(handler, &last);
                }
            }
        }
    }
}

impl Run {
    /// Sees which handlers have enough, and whether to look past their events.
    pub(crate) fn look_at_limits(&mut self) {
        let (limited, crowd) = (&self.slots.limited, &mut self.crowd);
        if limited.is_empty() {
            return;
        }
        let Some(walk) = &mut crowd.walk else {
            if limited.is_relaxed() {
                crowd.since = None;
            } else if limited.is_crowded() {
                crowd.since.get_or_insert_with(Instant::now);
            }
            let is_long = crowd.since.is_some_and(|since| since.elapsed() >= MOMENT);
            if crowd.looks_past && is_long {
                crowd.walk = Some(Walk::begin());
                self.pace.now();
            }
            return;
        };
        let (is_over, wants) = (walk.is_over(limited), walk.wanted(limited).is_some());
        let looks_back = is_over || wants || walk.next() <= Instant::now();
        if looks_back || crowd.returning.len() > MANY {
            crowd.returning.retain(|receipt| self.leases.holds(receipt));
        }
        crowd.waits = looks_back && !crowd.returning.is_empty();
        let was_ready = std::mem::replace(&mut walk.is_ready, looks_back && !crowd.waits);
        if walk.is_ready && !was_ready {
            self.pace.now();
        }
        if walk.is_ready && is_over {
            crowd.walk = None;
            crowd.since = None;
            // What is fetched now is for handlers with limits again.
            self.window.shrink();
        }
    }

    /// How the next fetch is to look at the queue.
    pub(crate) fn next_look(&mut self) -> Look {
        let Some(walk) = &mut self.crowd.walk else {
            return Look::Front;
        };
        if walk.is_ready && walk.next() <= Instant::now() {
            *walk = Walk::begin();
        }
        match walk.wanted(&self.slots.limited) {
            Some(place) if walk.is_ready => Look::Again(place.clone()),
            _ => Look::On(walk.reached.clone()),
        }
    }

    /// Whether a delivery is to go back at once: its handler has enough, or it follows one of its key
    /// that goes back.
    pub(crate) fn passes_over(&mut self, item: &Item, key: Option<&str>) -> bool {
        let crowd = &mut self.crowd;
        let Some(walk) = &mut crowd.walk else {
            return false;
        };
        let intake = &mut crowd.intake;
        // What is begun of a key goes on.
        if key.is_some_and(|key| self.lanes.has(key)) {
            return false;
        }
        if !key.is_some_and(|key| intake.keys.contains(key)) {
            let due = self.app.dispatcher.limited_on(&item.work);
            let has_enough = |handler: &usize| {
                let to_come = intake
                    .to_come
                    .iter()
                    .filter(|other| *other == handler)
                    .count();
                self.slots.limited.has_enough(*handler, to_come)
            };
            let full: Vec<usize> = due.iter().copied().filter(has_enough).collect();
            if full.is_empty() {
                intake.to_come.extend(due);
                intake.after = Some(item.position.clone());
                return false;
            }
            if let Some(after) = &intake.after {
                full.into_iter()
                    .for_each(|handler| walk.leave(handler, after));
            }
        }
        intake.keys.extend(key.map(str::to_owned));
        intake.after = Some(item.position.clone());
        intake.passed = intake.passed.take().max(Some(item.position.clone()));
        crowd.returning.push(item.receipt.clone());
        true
    }

    /// Whether to look past one handler's events at all: others may stand behind.
    pub(crate) fn looks_past(&self) -> bool {
        let handlers = self.app.dispatcher.registry.of(&self.settings.queue).iter();
        let ordinary = handlers.filter(|handler| !handler.takes_control()).count();
        ordinary > 1 && self.settings.engine.capabilities().ordered
    }
}
