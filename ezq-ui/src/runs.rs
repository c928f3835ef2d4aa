//! Actions on many dead letters: each runs in a task of its own, and a page shows how far it is.
//!
//! The list is in memory: it is for those who watch, and ends with the process. What was moved stays
//! moved, and the same action continues with the rest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use ezq::admin::{CopyState, EventFilter, EventPage, EventState};
use ezq::message::MessageId;
use ezq::{Ezq, QueueName, Result};

/// So many dead letters are moved at a time: so often a page shows progress.
const CHUNK: usize = 100;
/// The largest page that the library reads.
const PAGE: usize = 1_000;
/// So many runs are remembered.
const KEPT: usize = 20;

/// What happens to dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Redrive,
    Discard,
}

impl Action {
    pub(crate) fn of(text: &str) -> Option<Self> {
        match text {
            "redrive" => Some(Self::Redrive),
            "discard" => Some(Self::Discard),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        }
    }
}

/// One action on many dead letters.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) action: Action,
    pub(crate) queue: QueueName,
    pub(crate) by: String,
    /// The filter, for people.
    pub(crate) filter: String,
    pub(crate) began: DateTime<Utc>,
    pub(crate) found: AtomicU64,
    pub(crate) done: AtomicU64,
    /// `None` while it runs; then the error that ended it, if one did.
    pub(crate) end: Mutex<Option<Option<String>>>,
}

/// The newest runs, newest first.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<VecDeque<Arc<Run>>>);

impl Runs {
    pub(crate) fn of(&self, queue: &QueueName) -> Vec<Arc<Run>> {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = runs.iter().filter(|run| run.queue == *queue);
        own.cloned().collect()
    }

    fn add(&self, run: Arc<Run>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push_front(run);
        runs.truncate(KEPT);
    }

    /// Begins a run. `after` is called once it has ended.
    pub(crate) fn begin(
        &self,
        ezq: Ezq,
        run: Run,
        filter: EventFilter,
        after: impl FnOnce() + Send + 'static,
    ) {
        let run = Arc::new(run);
        self.add(Arc::clone(&run));
        // Not tied to the request: a browser that goes away must not end it half-way.
        tokio::spawn(async move {
            let ended = run.go(&ezq, &filter).await;
            let failure = ended.err().map(|error| ezq::error::error_chain(&error));
            *run.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            after();
        });
    }
}

impl Run {
    async fn go(&self, ezq: &Ezq, filter: &EventFilter) -> Result<()> {
        // Collected before anything moves, so that a letter that dies again meanwhile is not met twice.
        let mut ids = Vec::new();
        let mut page = dead_page(ezq, &self.queue, filter, PAGE, None).await?;
        loop {
            ids.extend(page.events.iter().filter_map(letter_id));
            self.found.store(ids.len() as u64, Ordering::Relaxed);
            let Some(next) = page.next else { break };
            page = dead_page(ezq, &self.queue, filter, PAGE, Some(next.as_str())).await?;
        }

        for chunk in ids.chunks(CHUNK) {
            let moved = act(ezq, &self.queue, self.action, chunk.to_vec()).await?;
            self.done.fetch_add(moved as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Redrives or discards dead letters, and tells how many there still were.
pub(crate) async fn act(
    ezq: &Ezq,
    queue: &QueueName,
    action: Action,
    ids: Vec<MessageId>,
) -> Result<usize> {
    let letters = ezq.dead_letters(queue)?;
    let done = match action {
        Action::Redrive => letters.redrive(ids).await?,
        Action::Discard => letters.discard(ids).await?,
    };
    Ok(done.len())
}

/// A page of the dead letters of a queue.
pub(crate) async fn dead_page(
    ezq: &Ezq,
    queue: &QueueName,
    filter: &EventFilter,
    limit: usize,
    after: Option<&str>,
) -> Result<EventPage> {
    let events = ezq.events(queue)?;
    let mut page = events
        .page(EventState::Dead)
        .filter(filter.clone())
        .limit(limit);
    if let Some(after) = after {
        page = page.after(ezq::admin::PageCursor::new(after));
    }
    page.await
}

/// The id that an event has among the dead letters.
pub(crate) fn letter_id(event: &ezq::admin::EventCopy) -> Option<MessageId> {
    match &event.state {
        CopyState::Dead { letter, .. } => Some(letter.clone()),
        _ => None,
    }
}
