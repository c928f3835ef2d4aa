//! `ezq replay`: archived events, published again.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ezq::pgmq::ReplayProgress;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::names;
use crate::output::Row;
use crate::progress::Progress;
use crate::session::{Access, Session};
use crate::signed::{Signed, signed};
use crate::text;
use crate::values;

#[derive(Debug, Subcommand)]
pub(crate) enum ReplayVerb {
    /// List the replays that were begun
    List,

    /// Publish archived events of a queue again. One that was interrupted goes on under its name
    Start(Box<Start>),
}

/// Which events are replayed, and where to.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// A name of your choice. Under one name, each event is replayed once
    name: String,
    /// The queue whose archive is read
    #[arg(long, value_name = "QUEUE")]
    queue: String,
    /// The queue that gets the events [default: the same]
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,
    /// All of the archive
    #[arg(long)]
    all: bool,
    /// Only types that a pattern matches: `order.paid`, `order.*`; may be repeated
    #[arg(long = "type", value_name = "PATTERN")]
    types: Vec<String>,
    /// Only events whose data contains this JSON, such as `{"order": 7}`
    #[arg(long, value_name = "JSON")]
    data: Option<String>,
    /// Only events that were published at this time or later. The time is part of what the replay is
    /// known by, so it is an exact one
    #[arg(long, value_name = "TIME", value_parser = values::exact_time)]
    since: Option<DateTime<Utc>>,
    /// Only events that were published before this time
    #[arg(long, value_name = "TIME", value_parser = values::exact_time)]
    until: Option<DateTime<Utc>>,
    /// How many a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    signed: Signed,
}

pub(crate) async fn run(session: &Session, verb: ReplayVerb) -> Result<(), Failure> {
    match verb {
        ReplayVerb::List => list(session).await,
        ReplayVerb::Start(start) => start.run(session).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.pgmq().replays().list().await?;
    ezq.close().await;

    let rows: Vec<ReplayRow<'_>> = found.iter().map(ReplayRow::of).collect();
    session.output.list(&rows, "no replays")
}

impl Start {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.check()?;
        // Here, so that the error names the option.
        let data = match &self.data {
            None => None,
            Some(text) => Some(
                serde_json::from_str(text)
                    .map_err(|error| Failure::usage(format!("`--data` is no JSON: {error}")))?,
            ),
        };
        let ezq = session.connect(Access::Change).await?;
        let queue = names::queue(&ezq, &self.queue).await?;

        let mut replay = signed!(ezq.replay(&self.name, &queue), self.signed);
        let mut target = queue.clone();
        if let Some(to) = &self.to {
            // The library would create the queue.
            target = names::queue(&ezq, to).await?;
            replay = replay.to_queue(&target);
        }
        for pattern in &self.types {
            replay = replay.event_type(pattern.as_str());
        }
        if let Some(data) = data {
            replay = replay.data(data);
        }
        if let Some(since) = self.since {
            replay = replay.published_after(since);
        }
        if let Some(until) = self.until {
            replay = replay.published_before(until);
        }
        if let Some(rate) = self.rate {
            replay = replay.rate(rate);
        }

        if session.global.dry_run {
            let count = replay.dry_run().await?;
            ezq.close().await;
            let answer = json!({"replay": self.name, "would_hand_over": count, "dry_run": true});
            let events = text::counted(count, "event");
            let text = format!("would hand over {events} to the queue `{target}`");
            return session.output.done(&answer, text);
        }

        let output = session.output;
        let bar = Progress::new(output, None, "replaying");
        let done = replay
            .on_progress(move |progress| {
                if bar.is_drawn() {
                    bar.at(progress.handed_over);
                } else if !progress.is_finished {
                    let events = text::counted(progress.handed_over, "event");
                    output.note(format!("handed over {events} so far"));
                }
            })
            .await?;
        ezq.close().await;
        let text = format!(
            "handed over {} to the queue `{target}`",
            text::counted(done.handed_over, "event")
        );
        session.output.done(&ReplayRow::of(&done), text)
    }

    /// Nothing is published again that nobody named.
    fn check(&self) -> Result<(), Failure> {
        let has_filter = !self.types.is_empty()
            || self.data.is_some()
            || self.since.is_some()
            || self.until.is_some();
        match (has_filter, self.all) {
            (true, false) | (false, true) => Ok(()),
            (true, true) => Err(Failure::usage("give either a filter or `--all`")),
            (false, false) => Err(Failure::usage(
                "which events? Give a filter such as `--type` or `--since`, or `--all`",
            )),
        }
    }
}

/// A replay, as `--json` prints it.
#[derive(Serialize)]
struct ReplayRow<'a> {
    replay: &'a str,
    queue: &'a str,
    target: &'a str,
    handed_over: u64,
    is_finished: bool,
    began_at: DateTime<Utc>,
    moved_at: DateTime<Utc>,
}

impl<'a> ReplayRow<'a> {
    fn of(found: &'a ReplayProgress) -> Self {
        Self {
            replay: &found.name,
            queue: found.queue.as_str(),
            target: found.target.as_str(),
            handed_over: found.handed_over,
            is_finished: found.is_finished,
            began_at: found.began_at,
            moved_at: found.moved_at,
        }
    }
}

impl Row for ReplayRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "REPLAY",
        "FROM",
        "TO",
        "HANDED OVER",
        "BEGAN",
        "LAST MOVED",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.replay.to_owned(),
            self.queue.to_owned(),
            self.target.to_owned(),
            self.handed_over.to_string(),
            text::time(self.began_at),
            text::time(self.moved_at),
            if self.is_finished {
                "done"
            } else {
                "unfinished"
            }
            .to_owned(),
        ]
    }
}
