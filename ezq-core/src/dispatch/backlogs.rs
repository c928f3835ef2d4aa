//! How much of each handler with a limit was started and waits for its permit. A handler whose
//! backlog is full *has enough*: the consumer takes in no more of its events.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::message::settlement::HandlerName;

/// The handlers of a consumer's queue that have a limit.
#[derive(Debug, Default)]
pub(crate) struct Backlogs {
    handlers: Vec<Backlog>,
}

/// The runs of one handler that were started and not called yet.
#[derive(Debug)]
struct Backlog {
    handler: HandlerName,
    waiting: AtomicUsize,
    /// With so many the handler has enough.
    limit: usize,
}

impl Backlog {
    fn count(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.count() <= self.limit / 2
    }
}

impl Backlogs {
    /// For handlers, each with how many of its runs may wait.
    pub(crate) fn of(handlers: impl IntoIterator<Item = (HandlerName, usize)>) -> Self {
        let backlogs = handlers.into_iter().map(|(handler, limit)| Backlog {
            handler,
            waiting: AtomicUsize::new(0),
            limit,
        });
        Self {
            handlers: backlogs.collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    /// The index that the other methods take for a handler; `None` if it has no limit.
    pub(crate) fn index(&self, handler: &HandlerName) -> Option<usize> {
        self.handlers
            .iter()
            .position(|backlog| backlog.handler == *handler)
    }

    pub(super) fn add(&self, index: usize) {
        if let Some(backlog) = self.handlers.get(index) {
            backlog.waiting.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn remove(&self, index: usize) {
        if let Some(backlog) = self.handlers.get(index) {
            backlog.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether a handler has enough, with so many more that are to be started.
    pub(crate) fn has_enough(&self, index: usize, to_come: usize) -> bool {
        let backlog = self.handlers.get(index);
        backlog.is_some_and(|backlog| backlog.count().saturating_add(to_come) >= backlog.limit)
    }

    /// Whether any handler has enough.
    pub(crate) fn is_crowded(&self) -> bool {
        self.handlers
            .iter()
            .any(|backlog| backlog.count() >= backlog.limit)
    }

    /// Whether a handler's backlog is at most half full.
    pub(crate) fn has_room(&self, index: usize) -> bool {
        self.handlers.get(index).is_none_or(Backlog::has_room)
    }

    /// Whether every backlog is at most half full.
    pub(crate) fn is_relaxed(&self) -> bool {
        self.handlers.iter().all(Backlog::has_room)
    }
}
