//! What the overview shows: queues with their last five minutes, consumers, and failing handlers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ezq::admin::{ConsumerInfo, EventCopy, EventState, QueueRates, QueueSummary, UnreadableQueue};
use ezq::error::error_chain;
use ezq::message::{HandlerName, HandlerState};
use ezq::{Error, ErrorKind, Ezq, QueueName, Result};
use futures_util::StreamExt as _;
use futures_util::future::join;
use futures_util::stream::iter;
use tokio::time::timeout;

use crate::failure::LIMIT;

/// How far back a trail of a queue goes.
pub(crate) const TRAIL: TimeDelta = TimeDelta::minutes(5);
/// Rates are the mean of this time.
const RATE_OVER: TimeDelta = TimeDelta::minutes(1);
/// How many of the queues with failing handlers are looked into for one sample.
const LOOKED_INTO: usize = 10;
/// How many events of such a queue.
const EVENTS: usize = 50;

/// After so long a sample is given up as a whole. Each question of it has the limit of a question.
pub(crate) const ROUND: Duration = Duration::from_secs(12);
/// How many queues are looked into for failing handlers at a time.
const AT_ONCE: usize = 4;
/// The limit for the list of queues: a lock on one of them is waited for.
const LISTED: Duration = Duration::from_secs(5);

/// All figures at one time.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) queues: Vec<Queue>,
    /// Queues that are there and gave no figures, sorted by name.
    pub(crate) unread: Vec<Unread>,
    pub(crate) consumers: Vec<ConsumerInfo>,
    pub(crate) failing: Vec<FailingHandler>,
    /// What else could not be read, and is as it was before.
    pub(crate) trouble: Option<String>,
}

/// A queue that could not be read: somebody has locked it, or the role may not look into it.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub(crate) queue: QueueName,
    pub(crate) why: String,
}

impl Unread {
    fn of(found: &UnreadableQueue) -> Self {
        Self {
            queue: found.queue.clone(),
            why: error_chain(&found.error),
        }
    }
}

/// A queue and its last five minutes.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) summary: QueueSummary,
    /// Oldest first. The last one is of the same time as the summary.
    pub(crate) trail: Vec<Point>,
    pub(crate) rates: Option<QueueRates>,
    /// How many dead letters more there are than at the begin of the trail.
    pub(crate) new_dead: u64,
    /// Consumers that have shown a sign of life.
    pub(crate) consumers: usize,
}

/// What a queue held at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) at: DateTime<Utc>,
    pub(crate) ready: u64,
}

/// A handler whose events wait for another attempt.
#[derive(Debug)]
pub(crate) struct FailingHandler {
    pub(crate) queue: QueueName,
    pub(crate) handler: HandlerName,
    /// How many events of those that were looked at.
    pub(crate) events: u64,
    /// Whether the queue has more events than were looked at.
    pub(crate) is_capped: bool,
    pub(crate) error: String,
    pub(crate) at: DateTime<Utc>,
}

impl Sample {
    pub(crate) fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues.iter().find(|one| one.summary.queue == *name)
    }

    pub(crate) fn unread(&self, name: &QueueName) -> Option<&Unread> {
        self.unread.iter().find(|one| one.queue == *name)
    }
}

/// The summaries of the last five minutes, and the consumers of the last sample.
#[derive(Debug, Default)]
pub(crate) struct Trails {
    queues: Mutex<BTreeMap<QueueName, VecDeque<QueueSummary>>>,
    consumers: Mutex<Vec<ConsumerInfo>>,
}

impl Trails {
    /// Reads a sample, and remembers it for the trails of later ones.
    pub(crate) async fn sample(&self, ezq: &Ezq) -> Result<Sample> {
        let queues = ezq.queues();
        let queues = timeout(LISTED, queues.list());
        let (listed, consumers) = join(queues, limited(ezq.consumers().list())).await;
        let listed = listed.unwrap_or_else(|_| Err(no_answer(LISTED)))?;
        let read = listed.queues;
        let unread: Vec<Unread> = listed.unreadable.iter().map(Unread::of).collect();
        let mut trouble = None;
        let consumers = consumers.unwrap_or_else(|failure| {
            trouble = Some(format!("the consumers: {}", error_chain(&failure)));
            self.last_consumers()
        });
        self.keep_consumers(&consumers);
        let failing = failing(ezq, &read).await;

        let mut queues: Vec<Queue> = self.extend(read, &unread);
        for queue in &mut queues {
            let of_queue = consumers
                .iter()
                .filter(|one| !one.is_gone && one.consumer.queue == queue.summary.queue);
            queue.consumers = of_queue.count();
        }
        Ok(Sample {
            queues,
            unread,
            consumers,
            failing,
            trouble,
        })
    }

    fn last_consumers(&self) -> Vec<ConsumerInfo> {
        let last = self.consumers.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_consumers(&self, consumers: &[ConsumerInfo]) {
        let last = self.consumers.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = consumers.to_vec();
    }

    fn extend(&self, summaries: Vec<QueueSummary>, unread: &[Unread]) -> Vec<Queue> {
        let mut trails = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // A queue that was dropped must not be remembered for ever.
        trails.retain(|queue, _| {
            summaries.iter().any(|one| one.queue == *queue)
                || unread.iter().any(|one| one.queue == *queue)
        });

        let mut queues = Vec::with_capacity(summaries.len());
        for summary in summaries {
            let trail = trails.entry(summary.queue.clone()).or_default();
            trail.retain(|earlier| earlier.at > summary.at - TRAIL);
            trail.push_back(summary.clone());

            // The oldest summary of the last minute, for a mean of that time.
            let recent = trail
                .iter()
                .find(|earlier| earlier.at > summary.at - RATE_OVER);
            let first = trail.front();
            let points = trail.iter().map(|one| Point {
                at: one.at,
                ready: one.ready.value,
            });
            queues.push(Queue {
                trail: points.collect(),
                rates: recent.and_then(|earlier| summary.rates_since(earlier)),
                new_dead: first.map_or(0, |first| {
                    summary.dead.value.saturating_sub(first.dead.value)
                }),
                consumers: 0,
                summary,
            });
        }
        queues
    }
}

/// The answer to one question, within the limit of one.
async fn limited<T>(question: impl IntoFuture<Output = Result<T>>) -> Result<T> {
    match timeout(LIMIT, question).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer(LIMIT)),
    }
}

fn no_answer(limit: Duration) -> Error {
    let text = format!("no answer within {limit:?}");
    Error::new(ErrorKind::Transient, text)
}

/// The handlers that have failed, of the first events that wait for another attempt.
async fn failing(ezq: &Ezq, queues: &[QueueSummary]) -> Vec<FailingHandler> {
    let with_retries = queues.iter().filter(|queue| !queue.retrying.is_zero());
    let pages = with_retries.take(LOOKED_INTO).map(|queue| async {
        let events = ezq.events(&queue.queue)?;
        limited(events.page(EventState::Retrying).limit(EVENTS)).await
    });
    let pages: Vec<_> = pages.collect();
    let mut pages = iter(pages).buffer_unordered(AT_ONCE);

    let mut all = Vec::new();
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            // It was dropped meanwhile, or may not be read. The other figures are none the worse.
            Err(failure) => {
                tracing::debug!(%failure, "the failing handlers of a queue are not shown");
                continue;
            }
        };
        let mut found = BTreeMap::<HandlerName, FailingHandler>::new();
        for event in &page.events {
            count(event, page.next.is_some(), &mut found);
        }
        all.extend(found.into_values());
    }
    // The newest failure first: it is what an operator has just caused, or must look at.
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    all
}

fn count(event: &EventCopy, is_capped: bool, found: &mut BTreeMap<HandlerName, FailingHandler>) {
    for (handler, mark) in event.handlers.iter() {
        let newest = mark.errors.last();
        let Some(newest) = newest.filter(|_| mark.state == HandlerState::Retry) else {
            continue;
        };
        let failing = found
            .entry(handler.clone())
            .or_insert_with(|| FailingHandler {
                queue: event.queue.clone(),
                handler: handler.clone(),
                events: 0,
                is_capped,
                error: newest.error.clone(),
                at: newest.at,
            });
        failing.events += 1;
        if newest.at > failing.at {
            failing.at = newest.at;
            failing.error.clone_from(&newest.error);
        }
    }
}
