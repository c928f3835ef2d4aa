//! What a queue holds, as it is printed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq::admin::{Count, Pause, QueueList, QueueSummary, UnreadableQueue};
use ezq::error::error_chain;
use serde::Serialize;

use crate::output::Row;
use crate::text;

/// What a queue holds, as `--json` prints it.
#[derive(Serialize)]
pub(crate) struct QueueRow<'a> {
    pub(crate) queue: &'a str,
    /// `null`, as the counts are, if the queue could not be read.
    at: Option<DateTime<Utc>>,
    ready: Option<u64>,
    leased: Option<u64>,
    retrying: Option<u64>,
    scheduled: Option<u64>,
    dead: Option<u64>,
    /// The counts that stopped, because there are more.
    capped: Vec<&'static str>,
    oldest_claimable_seconds: Option<f64>,
    is_paused: bool,
    pub(crate) pauses: Vec<PauseRow<'a>>,
    /// The tables over which its events are spread.
    pub(crate) partitions: Option<u32>,
    /// Why the queue could not be read.
    unreadable: Option<String>,
    #[serde(skip)]
    shown: [String; 5],
}

#[derive(Serialize)]
pub(crate) struct PauseRow<'a> {
    handler: Option<&'a str>,
    since: DateTime<Utc>,
    by: &'a str,
    reason: Option<&'a str>,
}

impl<'a> QueueRow<'a> {
    pub(crate) fn of(found: &'a QueueSummary) -> Self {
        let counts: [(&'static str, Count); 5] = [
            ("ready", found.ready),
            ("leased", found.leased),
            ("retrying", found.retrying),
            ("scheduled", found.scheduled),
            ("dead", found.dead),
        ];
        let capped = counts.iter().filter(|(_, count)| count.is_capped);

        Self {
            queue: found.queue.as_str(),
            at: Some(found.at),
            ready: Some(found.ready.value),
            leased: Some(found.leased.value),
            retrying: Some(found.retrying.value),
            scheduled: Some(found.scheduled.value),
            dead: Some(found.dead.value),
            capped: capped.map(|(name, _)| *name).collect(),
            oldest_claimable_seconds: found.oldest_claimable.map(|age| age.as_secs_f64()),
            is_paused: found.is_paused(),
            pauses: found.pauses.iter().map(PauseRow::of).collect(),
            partitions: Some(found.partitions),
            unreadable: None,
            shown: counts.map(|(_, count)| count.to_string()),
        }
    }

    /// A queue that could not be read.
    pub(crate) fn unreadable(found: &'a UnreadableQueue) -> Self {
        Self {
            queue: found.queue.as_str(),
            at: None,
            ready: None,
            leased: None,
            retrying: None,
            scheduled: None,
            dead: None,
            capped: Vec::new(),
            oldest_claimable_seconds: None,
            is_paused: false,
            pauses: Vec::new(),
            partitions: None,
            unreadable: Some(error_chain(&found.error)),
            shown: std::array::from_fn(|_| "?".to_owned()),
        }
    }

    /// All queues, those that could not be read last.
    pub(crate) fn all(found: &'a QueueList) -> Vec<Self> {
        let read = found.queues.iter().map(Self::of);
        read.chain(found.unreadable.iter().map(Self::unreadable))
            .collect()
    }

    pub(crate) fn oldest(&self) -> String {
        let age = self.oldest_claimable_seconds.map(Duration::from_secs_f64);
        age.map_or_else(|| "-".to_owned(), text::duration)
    }

    fn state(&self) -> String {
        if let Some(why) = &self.unreadable {
            return format!("unreadable: {}", text::shortened(why));
        }
        // A pause of the whole queue says all there is to say of its handlers.
        let handlers: Vec<&str> = self
            .pauses
            .iter()
            .filter_map(|pause| pause.handler)
            .collect();
        let pauses = match (self.is_paused, handlers.is_empty()) {
            (true, _) => Some("paused".to_owned()),
            (false, true) => None,
            (false, false) => Some(format!("paused: {}", handlers.join(", "))),
        };
        let partitions = self.partitions.filter(|count| *count > 1);
        let partitions = partitions.map(|count| format!("{count} partitions"));

        let state: Vec<String> = pauses.into_iter().chain(partitions).collect();
        match state.is_empty() {
            true => "-".to_owned(),
            false => state.join(", "),
        }
    }
}

impl Row for QueueRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "QUEUE",
        "READY",
        "LEASED",
        "RETRYING",
        "SCHEDULED",
        "DEAD",
        "OLDEST",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.queue.to_owned()];
        cells.extend(self.shown.iter().cloned());
        cells.extend([self.oldest(), self.state()]);
        cells
    }
}

impl<'a> PauseRow<'a> {
    fn of(pause: &'a Pause) -> Self {
        let handler = pause.target.handler.as_ref();
        Self {
            handler: handler.map(|name| name.as_str()),
            since: pause.since,
            by: &pause.by,
            reason: pause.reason.as_deref(),
        }
    }
}

impl std::fmt::Display for PauseRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(handler) = self.handler {
            write!(f, "the handler `{handler}`, ")?;
        }
        let since = text::time(self.since);
        write!(f, "since {since} by {}", self.by)?;
        match self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
