//! The operations on a store, and how often each is drawn.
//!
//! Operations are drawn without a look at the store, so that any of them can be left out when a failing
//! sequence is shrunk. That is why a pick is a number, which counts from the newest candidate.

use ezq_core::message::HandlerState;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

/// The number of workers. Every second one uses the second client of the store.
pub(super) const WORKERS: usize = 3;
/// The number of queues in use.
pub(super) const QUEUES: usize = 2;
/// Stands for a queue that does not exist.
pub(super) const MISSING: usize = QUEUES;

/// Counts back from the newest candidate, and begins there again after the oldest.
pub(super) type Pick = usize;

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Publish(Vec<(usize, When)>),
    Lease {
        queue: usize,
        worker: usize,
        max: usize,
        hours: i64,
        before: Option<Pick>,
        after: Option<Pick>,
    },
    Settle {
        queue: usize,
        by: Whose,
        batch: Vec<Settlement>,
    },
    Extend {
        queue: usize,
        by: Whose,
        picks: Vec<Pick>,
        hours: i64,
    },
    /// A worker forgets its receipts. A zombie may still use them.
    Crash {
        worker: usize,
    },
    Advance {
        hours: i64,
    },
    Cancel {
        queue: usize,
        pick: Pick,
    },
    Reschedule {
        queue: usize,
        pick: Pick,
        when: When,
    },
    Redrive {
        queue: usize,
        picks: Vec<Pick>,
    },
    Discard {
        queue: usize,
        picks: Vec<Pick>,
    },
    Purge {
        queue: usize,
    },
    /// Starts an operation on all events in a state, which both clients take steps of, to its end.
    Bulk {
        queue: usize,
        what: Bulk,
    },
    /// Loses the newest message, so that the next one gets its id. Stores that cannot do this skip it.
    Lose {
        queue: usize,
    },
    /// Compares the statistics and the dead letters.
    Look {
        queue: usize,
    },
}

/// When a message falls due.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    Now,
    After {
        hours: i64,
    },
    /// At the time `hours` and half an hour from now, or before now.
    At {
        hours: i64,
    },
}

/// The holder of the receipts that are used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose {
    Worker(usize),
    /// Receipts that a crash left behind, and receipts that were used before.
    Zombie,
}

impl Whose {
    /// The number of the client of the store that they use.
    pub(super) fn client(self) -> usize {
        match self {
            Self::Worker(worker) => worker % 2,
            Self::Zombie => 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Settlement {
    pub(super) pick: Pick,
    pub(super) how: How,
    pub(super) marks: Vec<(usize, HandlerState)>,
    pub(super) outgoing: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    Ack,
    Retry { hours: i64 },
    Bury,
    Release,
}

/// What is done to all events in a state.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bulk {
    DiscardReady,
    DiscardDead,
    RedriveDead,
    RetryScheduled,
    RetryRetrying,
}

/// Any operation.
pub(super) fn operation() -> BoxedStrategy<Operation> {
    use Operation::*;
    // Claims and settlements come most, since the rest only matters to what is leased. Purging and
    // discarding come seldom: they leave nothing to examine.
    Union::new_weighted(vec![
        (10, vec((queue(), when()), 1..5).prop_map(Publish).boxed()),
        (
            20,
            (queue(), worker(), 1..5_usize, hours(), place(), place())
                .prop_map(|(queue, worker, max, hours, before, after)| Lease {
                    queue,
                    worker,
                    max,
                    hours,
                    before,
                    after,
                })
                .boxed(),
        ),
        (
            20,
            (queue(), whose(), vec(settlement(), 1..5))
                .prop_map(|(queue, by, batch)| Settle { queue, by, batch })
                .boxed(),
        ),
        (
            5,
            (queue(), whose(), vec(pick(), 1..4), hours())
                .prop_map(|(queue, by, picks, hours)| Extend {
                    queue,
                    by,
                    picks,
                    hours,
                })
                .boxed(),
        ),
        (3, worker().prop_map(|worker| Crash { worker }).boxed()),
        (6, hours().prop_map(|hours| Advance { hours }).boxed()),
        (
            3,
            (queue(), pick())
                .prop_map(|(queue, pick)| Cancel { queue, pick })
                .boxed(),
        ),
        (
            3,
            (queue(), pick(), when())
                .prop_map(|(queue, pick, when)| Reschedule { queue, pick, when })
                .boxed(),
        ),
        (
            4,
            (queue(), vec(pick(), 1..4))
                .prop_map(|(queue, picks)| Redrive { queue, picks })
                .boxed(),
        ),
        (
            1,
            (queue(), vec(pick(), 1..3))
                .prop_map(|(queue, picks)| Discard { queue, picks })
                .boxed(),
        ),
        (1, queue().prop_map(|queue| Purge { queue }).boxed()),
        (
            3,
            (queue(), bulk())
                .prop_map(|(queue, what)| Bulk { queue, what })
                .boxed(),
        ),
        (2, queue().prop_map(|queue| Lose { queue }).boxed()),
        (8, queue().prop_map(|queue| Look { queue }).boxed()),
    ])
    .boxed()
}

fn bulk() -> impl Strategy<Value = self::Bulk> {
    use self::Bulk::*;
    // Discarding leaves nothing to examine.
    prop_oneof![
        1 => Just(DiscardReady),
        1 => Just(DiscardDead),
        3 => Just(RedriveDead),
        3 => Just(RetryScheduled),
        3 => Just(RetryRetrying),
    ]
}

fn settlement() -> impl Strategy<Value = Settlement> {
    let how = prop_oneof![
        3 => Just(How::Ack),
        // Zero hours is a retry at once.
        3 => hours().prop_map(|hours| How::Retry { hours: hours - 1 }),
        2 => Just(How::Release),
        2 => Just(How::Bury),
    ];
    let target = prop_oneof![8 => queue(), 1 => Just(MISSING)];
    let state = prop_oneof![
        Just(HandlerState::Done),
        Just(HandlerState::Retry),
        Just(HandlerState::Dead)
    ];
    let outgoing = prop_oneof![3 => Just(Vec::new()), 1 => vec(target, 1..3)];
    (pick(), how, vec((0..3_usize, state), 0..3), outgoing).prop_map(
        |(pick, how, marks, outgoing)| match how {
            How::Release => Settlement {
                pick,
                how,
                marks: Vec::new(),
                outgoing: Vec::new(),
            },
            How::Ack => Settlement {
                pick,
                how,
                marks: Vec::new(),
                outgoing,
            },
            How::Retry { .. } | How::Bury => Settlement {
                pick,
                how,
                marks,
                outgoing,
            },
        },
    )
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => Just(When::Now),
        2 => (0..4_i64).prop_map(|hours| When::After { hours }),
        2 => (-2..4_i64).prop_map(|hours| When::At { hours }),
    ]
}

fn whose() -> impl Strategy<Value = Whose> {
    prop_oneof![5 => worker().prop_map(Whose::Worker), 1 => Just(Whose::Zombie)]
}

// One queue has most of the traffic, so that messages meet in it.
fn queue() -> impl Strategy<Value = usize> {
    prop_oneof![5 => Just(0_usize), 1 => Just(1_usize)]
}

fn worker() -> impl Strategy<Value = usize> {
    0..WORKERS
}

/// A place that bounds a claim, if any does.
fn place() -> impl Strategy<Value = Option<Pick>> {
    prop::option::weighted(0.15, pick())
}

fn hours() -> impl Strategy<Value = i64> {
    1..4_i64
}

fn pick() -> impl Strategy<Value = Pick> {
    0..12_usize
}
