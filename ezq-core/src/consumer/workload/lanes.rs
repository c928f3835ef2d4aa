//! Lanes: what is held of one ordering key, started one after another.
//!
//! A delivery has its [`Turn`] while it is at work. It passes the turn on when the next of its key
//! may start; a turn that is dropped instead, for whatever reason, ends its lane, and what waited
//! there goes back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::consumer::run::Item;
use crate::engine::{Position, Receipt};

/// The deliveries that wait for another of their key.
pub(crate) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    waiting: usize,
    last: u64,
    sender: mpsc::UnboundedSender<Step>,
    steps: mpsc::UnboundedReceiver<Step>,
}

struct Lane {
    number: u64,
    current: Receipt,
    waiting: VecDeque<Item>,
    /// One of the key was refused: what follows it must be, too.
    closed: bool,
}

/// What a delivery with a key comes to when it is taken in.
pub(crate) enum Entered {
    /// It is its turn.
    Starts(Item),
    Waits,
    /// Too many wait.
    Refused(Item),
}

/// What happened in a lane.
#[derive(Debug)]
pub(crate) struct Step {
    key: Arc<str>,
    number: u64,
    goes_on: bool,
}

/// What a step comes to.
pub(crate) enum Stepped {
    Nothing,
    Starts(Item),
    /// The lane has ended: whatever still runs in it is to be cancelled, the rest goes back.
    Ended {
        current: Receipt,
        rest: VecDeque<Item>,
    },
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let (sender, steps) = mpsc::unbounded_channel();
        Self {
            lanes: HashMap::new(),
            waiting: 0,
            last: 0,
            sender,
            steps,
        }
    }

    /// Takes in a delivery with a key, unless as many wait already as may.
    pub(crate) fn enter(&mut self, key: &str, mut item: Item, most: usize) -> Entered {
        if let Some(lane) = self.lanes.get_mut(key) {
            if lane.closed || self.waiting >= most {
                lane.closed = true;
                return Entered::Refused(item);
            }
            lane.waiting.push_back(item);
            self.waiting += 1;
            return Entered::Waits;
        }
        self.last += 1;
        let (key, number): (Arc<str>, u64) = (key.into(), self.last);
        item.turn = Some(self.turn(&key, number));
        let (current, waiting) = (item.receipt.clone(), VecDeque::new());
        self.lanes.insert(
            key,
            Lane {
                number,
                current,
                waiting,
                closed: false,
            },
        );
        Entered::Starts(item)
    }

    /// Whether one of a key is at work.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lanes.contains_key(key)
    }

    fn turn(&self, key: &Arc<str>, number: u64) -> Turn {
        let (key, steps) = (Arc::clone(key), self.sender.clone());
        Turn {
            key,
            number,
            steps,
            passed: false,
        }
    }

    /// Waits for the next step.
    pub(crate) async fn step(&mut self) -> Option<Step> {
        self.steps.recv().await
    }

    /// The next step, if it has been taken already.
    pub(crate) fn step_taken(&mut self) -> Option<Step> {
        self.steps.try_recv().ok()
    }

    pub(crate) fn follow(&mut self, step: Step) -> Stepped {
        let Step {
            key,
            number,
            goes_on,
        } = step;
        let Some(lane) = self
            .lanes
            .get_mut(&key)
            .filter(|lane| lane.number == number)
        else {
            return Stepped::Nothing;
        };
        if goes_on && let Some(mut next) = lane.waiting.pop_front() {
            lane.current = next.receipt.clone();
            self.waiting -= 1;
            next.turn = Some(self.turn(&key, number));
            return Stepped::Starts(next);
        }
        let Some(Lane {
            current,
            waiting: rest,
            ..
        }) = self.lanes.remove(&key)
        else {
            return Stepped::Nothing;
        };
        self.waiting -= rest.len();
        if goes_on {
            Stepped::Nothing
        } else {
            Stepped::Ended { current, rest }
        }
    }

    /// How many deliveries wait for another of their key.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Gives up all that waits.
    pub(crate) fn clear(&mut self) -> Vec<Item> {
        self.waiting = 0;
        self.lanes
            .drain()
            .flat_map(|(_, lane)| lane.waiting)
            .collect()
    }

    /// Gives up what waits and stands after a place. Places rise within a lane.
    pub(crate) fn cut(&mut self, place: &Position) -> Vec<Item> {
        let mut cut = Vec::new();
        for lane in self.lanes.values_mut() {
            let kept = lane
                .waiting
                .iter()
                .take_while(|item| item.position <= *place)
                .count();
            let rest = lane.waiting.split_off(kept);
            lane.closed |= !rest.is_empty();
            cut.extend(rest);
        }
        self.waiting -= cut.len();
        cut
    }
}

/// The right of a delivery to be the one of its key that is at work.
#[derive(Debug)]
pub(crate) struct Turn {
    key: Arc<str>,
    number: u64,
    steps: mpsc::UnboundedSender<Step>,
    passed: bool,
}

impl Turn {
    /// Lets the next of the key start; once.
    pub(crate) fn pass(&mut self) {
        if !std::mem::replace(&mut self.passed, true) {
            self.say(true);
        }
    }

    /// Ends the lane, also when the turn was passed on: the delivery is not settled after all.
    pub(crate) fn revoke(mut self) {
        self.passed = false;
    }

    fn say(&self, goes_on: bool) {
        // Nobody listens once the consumer has ended.
        let _ = self.steps.send(Step {
            key: Arc::clone(&self.key),
            number: self.number,
            goes_on,
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.passed {
            self.say(false);
        }
    }
}
