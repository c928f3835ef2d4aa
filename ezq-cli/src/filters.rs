//! Conditions on the events of a queue, and which of them a command changes.

use chrono::{DateTime, Utc};
use clap::Args;
use ezq::admin::{EventFilter, EventState};

use crate::failure::Failure;
use crate::values;

/// Conditions on events. Those that meet every one are selected.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Conditions {
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events of this ordering key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only events that this handler has not finished
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Only events whose newest error has this text in it
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only events that were stored at this time or later: `2026-01-31T12:00:00Z`, or `2h` for two hours
    /// ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    since: Option<DateTime<Utc>>,
    /// Only events that were stored before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::time)]
    until: Option<DateTime<Utc>>,
}

impl Conditions {
    pub(crate) fn build(&self) -> EventFilter {
        let mut filter = EventFilter::all();
        filter.event_type.clone_from(&self.event_type);
        filter.key.clone_from(&self.key);
        filter.error.clone_from(&self.error);
        filter.stored_after = self.since;
        filter.stored_before = self.until;
        match &self.handler {
            Some(handler) => filter.handler(handler),
            None => filter,
        }
    }
}

/// Which events a command changes: one by its number, those that meet every condition, or all.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// The queue
    pub(crate) queue: String,
    /// The number of one event, as `list` shows it
    #[arg(value_name = "ID")]
    id: Option<i64>,
    /// All events in the state
    #[arg(long)]
    all: bool,
    /// The state of the events, for a filter and `--all`. A number means an event that waits, and with
    /// `--state dead` a dead letter
    #[arg(long, value_name = "STATE", value_parser = values::state)]
    state: Option<EventState>,
    /// How many a second at most, on average. For a filter and `--all`
    #[arg(long, value_name = "N", conflicts_with = "id", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    conditions: Conditions,
}

/// What was chosen.
#[derive(Debug, PartialEq)]
pub(crate) enum Chosen {
    /// An event that waits.
    One(i64),
    /// A dead letter.
    Letter(i64),
    /// What meets the filter.
    Many(EventState, EventFilter),
}

impl Choice {
    /// What is chosen. Nothing that is said is ignored, and nothing is changed that nobody named. `usual` is
    /// the state without `--state`, if the command has one.
    pub(crate) fn chosen(&self, usual: Option<EventState>) -> Result<Chosen, Failure> {
        let filter = self.conditions.build();
        let has_filter = filter != EventFilter::all();
        match (self.id, has_filter, self.all) {
            (Some(_), true, _) => Err(Failure::usage("give either a number or a filter")),
            (Some(_), _, true) => Err(Failure::usage("give either a number or `--all`")),
            (Some(id), false, false) => match self.state {
                None => Ok(Chosen::One(id)),
                Some(EventState::Dead) => Ok(Chosen::Letter(id)),
                Some(_) => Err(Failure::usage(
                    "a number needs no state, but `--state dead` if it is that of a dead letter",
                )),
            },
            (None, true, true) => Err(Failure::usage("give either a filter or `--all`")),
            (None, false, false) => Err(Failure::usage(
                "which events? Give a number, a filter such as `--type`, or `--all`",
            )),
            (None, _, _) => match self.state.or(usual) {
                Some(state) => Ok(Chosen::Many(state, filter)),
                None => Err(Failure::usage(
                    "in which state? Give `--state`: `ready`, `retrying`, `scheduled` or `dead`",
                )),
            },
        }
    }
}
