//! Lanes: the deliveries of one ordering key, started one after another.
//!
//! # When the next event of a key starts
//!
//! The delivery at work holds the [`LaneGuard`] of its lane. It passes the guard on:
//!
//! - as soon as its acknowledgement is handed to the settling task, if no events go out with it:
//!   acknowledgements go out in order;
//! - only once it is settled, if events go out with it or the message becomes a dead letter.
//!
//! A guard that is dropped instead ends the lane: the message comes again, its lease is lost or its
//! task panicked. What waits in the lane goes back, what runs is cancelled. After a crash a key
//! begins again at its earliest event that was not settled.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::delivery::lane_guard::{LaneGuard, LaneStep};
use crate::dispatch::work::Work;
use crate::engine::{Position, Receipt};

/// The lanes of one consumer, by ordering key.
pub(crate) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    /// How many deliveries wait in all lanes.
    waiting: usize,
    last_number: u64,
    sender: mpsc::UnboundedSender<LaneStep>,
    steps: mpsc::UnboundedReceiver<LaneStep>,
}

struct Lane {
    number: u64,
    /// The delivery that is at work.
    current: Receipt,
    waiting: VecDeque<Work>,
    /// A delivery of the key was refused, so all that follow it must be, too.
    is_closed: bool,
}

/// Where a delivery with a key went.
pub(crate) enum Admission {
    /// It opened its lane: it starts.
    Start(Work),
    Wait,
    /// Too many wait already: it goes back.
    Refuse(Work),
}

/// What a step of a lane leads to.
pub(crate) enum LaneChange {
    None,
    Start(Work),
    /// The lane has ended: what still runs in it is cancelled, the rest goes back.
    End {
        current: Receipt,
        rest: VecDeque<Work>,
    },
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let (sender, steps) = mpsc::unbounded_channel();
        Self {
            lanes: HashMap::new(),
            waiting: 0,
            last_number: 0,
            sender,
            steps,
        }
    }

    /// Takes in a delivery with a key, unless `max_waiting` wait already.
    pub(crate) fn enter(&mut self, key: &str, mut work: Work, max_waiting: usize) -> Admission {
        if let Some(lane) = self.lanes.get_mut(key) {
            if lane.is_closed || self.waiting >= max_waiting {
                lane.is_closed = true;
                return Admission::Refuse(work);
            }

            lane.waiting.push_back(work);
            self.waiting += 1;
            return Admission::Wait;
        }

        self.last_number += 1;
        let key: Arc<str> = key.into();
        work.lane = Some(self.guard(&key, self.last_number));

        let lane = Lane {
            number: self.last_number,
            current: work.received.receipt.clone(),
            waiting: VecDeque::new(),
            is_closed: false,
        };
        self.lanes.insert(key, lane);
        Admission::Start(work)
    }

    /// Whether a delivery of this key is at work.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lanes.contains_key(key)
    }

    fn guard(&self, key: &Arc<str>, number: u64) -> LaneGuard {
        LaneGuard::new(Arc::clone(key), number, self.sender.clone())
    }

    /// Waits for the next step of a lane.
    ///
    /// # Cancel safety
    /// No step is lost when the future is dropped.
    pub(crate) async fn step(&mut self) -> Option<LaneStep> {
        self.steps.recv().await
    }

    /// The next step, if one is there already.
    pub(crate) fn try_step(&mut self) -> Option<LaneStep> {
        self.steps.try_recv().ok()
    }

    /// Moves a lane on by one step.
    pub(crate) fn follow(&mut self, step: LaneStep) -> LaneChange {
        let LaneStep {
            key,
            number,
            goes_on,
        } = step;
        let Some(lane) = self
            .lanes
            .get_mut(&key)
            .filter(|lane| lane.number == number)
        else {
            return LaneChange::None;
        };

        if goes_on && let Some(mut next) = lane.waiting.pop_front() {
            lane.current = next.received.receipt.clone();
            self.waiting -= 1;
            next.lane = Some(self.guard(&key, number));
            return LaneChange::Start(next);
        }

        let Some(Lane {
            current,
            waiting: rest,
            ..
        }) = self.lanes.remove(&key)
        else {
            return LaneChange::None;
        };
        self.waiting -= rest.len();

        if goes_on {
            LaneChange::None
        } else {
            LaneChange::End { current, rest }
        }
    }

    /// How many deliveries wait for another of their key.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Closes all lanes and hands out what waited there.
    pub(crate) fn clear(&mut self) -> Vec<Work> {
        self.waiting = 0;
        self.lanes
            .drain()
            .flat_map(|(_, lane)| lane.waiting)
            .collect()
    }

    /// Hands out what waits and is meant. What waits behind it goes on.
    pub(crate) fn remove(&mut self, is_meant: impl Fn(&Work) -> bool) -> Vec<Work> {
        let mut removed = Vec::new();
        for lane in self.lanes.values_mut() {
            let waiting = std::mem::take(&mut lane.waiting);
            let (meant, kept): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(&is_meant);
            lane.waiting = kept;
            removed.extend(meant);
        }
        self.waiting -= removed.len();
        removed
    }

    /// Hands out what waits behind a position.
    pub(crate) fn cut(&mut self, position: &Position) -> Vec<Work> {
        let mut cut = Vec::new();
        for lane in self.lanes.values_mut() {
            // Positions rise within a lane.
            let kept = lane
                .waiting
                .iter()
                .take_while(|work| work.received.position() <= *position)
                .count();
            let rest = lane.waiting.split_off(kept);
            lane.is_closed |= !rest.is_empty();
            cut.extend(rest);
        }

        self.waiting -= cut.len();
        cut
    }
}
