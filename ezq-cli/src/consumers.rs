//! `ezq consumer`: who runs where.

use clap::Subcommand;
use ezq::admin::ConsumerInfo;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Row;
use crate::session::{Access, Session};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum ConsumerVerb {
    /// List the consumers of every process, and those that are gone since yesterday
    List,
}

pub(crate) async fn run(session: &Session, verb: ConsumerVerb) -> Result<(), Failure> {
    match verb {
        ConsumerVerb::List => list(session).await,
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ezq = session.connect(Access::Read).await?;
    let found = ezq.consumers().list().await?;
    ezq.close().await;

    let rows: Vec<ConsumerRow<'_>> = found.iter().map(ConsumerRow::of).collect();
    let hint = "no consumers: none runs, or its program has EZQ_PRESENCE=false";
    session.output.list(&rows, hint)
}

/// A consumer, as `--json` prints it.
#[derive(Serialize)]
struct ConsumerRow<'a> {
    id: &'a str,
    queue: &'a str,
    application: &'a str,
    version: Option<&'a str>,
    ezq_version: &'a str,
    host: &'a str,
    process: u32,
    handlers: Vec<&'a str>,
    concurrency: u64,
    in_flight: u64,
    handled: u64,
    retried: u64,
    dead_lettered: u64,
    uptime_seconds: f64,
    seen_seconds_ago: f64,
    is_paused: bool,
    is_stopping: bool,
    is_gone: bool,
    #[serde(skip)]
    found: &'a ConsumerInfo,
}

impl<'a> ConsumerRow<'a> {
    fn of(found: &'a ConsumerInfo) -> Self {
        let consumer = &found.consumer;
        Self {
            id: &consumer.id,
            queue: consumer.queue.as_str(),
            application: &consumer.application,
            version: consumer.version.as_deref(),
            ezq_version: &consumer.ezq_version,
            host: &consumer.host,
            process: consumer.process,
            handlers: consumer.handlers.iter().map(|name| name.as_str()).collect(),
            concurrency: consumer.concurrency,
            in_flight: consumer.in_flight,
            handled: consumer.handled,
            retried: consumer.retried,
            dead_lettered: consumer.dead_lettered,
            uptime_seconds: consumer.uptime.as_secs_f64(),
            seen_seconds_ago: found.seen_ago.as_secs_f64(),
            is_paused: consumer.is_paused,
            is_stopping: consumer.is_stopping,
            is_gone: found.is_gone,
            found,
        }
    }

    fn state(&self) -> String {
        // What a process that died last told of itself counts no more.
        match (self.is_gone, self.is_stopping, self.is_paused) {
            (true, _, _) => format!("gone for {}", text::duration(self.found.seen_ago)),
            (false, true, _) => "stopping".to_owned(),
            (false, false, true) => "paused".to_owned(),
            (false, false, false) => "runs".to_owned(),
        }
    }
}

impl Row for ConsumerRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "QUEUE",
        "APPLICATION",
        "HOST",
        "PROCESS",
        "IN FLIGHT",
        "HANDLED",
        "DEAD",
        "UP",
        "STATE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.queue.to_owned(),
            self.application.to_owned(),
            self.host.to_owned(),
            self.process.to_string(),
            format!("{} of {}", self.in_flight, self.concurrency),
            self.handled.to_string(),
            self.dead_lettered.to_string(),
            text::duration(self.found.consumer.uptime),
            self.state(),
        ]
    }
}
